"""The student: frozen speech encoder → causal adapter → LLM. Knows Hugging Face, knows no DeepSpeed."""
