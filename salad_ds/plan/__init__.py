"""What a training stage will take, before anything is spent: memory, time, network, storage, and what breaks first.

Nothing is loaded but configurations: models lie on torch's meta device, activations are counted on fake tensors, which
have shapes and no numbers. ``verb.plan`` puts the parts together: shapes (what the models are), rows (what a row of
positions holds), zero (what a DeepSpeed config shards), activations and memory (bytes per GPU), traffic (bytes between
GPUs), speed (seconds), storage (bytes on disks), choose (which config of ds_configs/ fits), limits (what gives out
first). tests/bench/memory.py and tests/bench/scaling.py hold it against what was measured.
"""
