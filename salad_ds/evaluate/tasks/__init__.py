"""Multiple-choice benchmarks: from their published files to items that are asked in text and in speech.

``load_task`` reads one as a recipe names it, ``spoken`` gives its questions as sound. One file per family of benchmarks
says what its records look like; templates.yaml holds the prompts.
"""

from salad_ds.evaluate.tasks.items import Item, Task, Template
from salad_ds.evaluate.tasks.registry import NAMES, load_task
from salad_ds.evaluate.tasks.spoken import Spoken, spoken
from salad_ds.evaluate.tasks.templates import templates

__all__ = ["NAMES", "Item", "Spoken", "Task", "Template", "load_task", "spoken", "templates"]
