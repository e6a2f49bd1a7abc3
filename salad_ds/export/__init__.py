"""From a checkpoint to a directory that others load: weights.py (what a checkpoint holds) → student.py (whose config) →
tensors.py (safetensors, written as they are read) → card.py, adapter_card.py (README.md) → run.py (the verb)."""
