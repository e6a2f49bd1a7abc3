"""salad_ds: teach a text LLM to hear, and lose as little of its mind as possible on the way (SALAD, arXiv
2510.13632)."""

__version__ = "0.1.0"
