"""The tasks by name, and how one is loaded: its published files → items, worked examples, template."""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from salad_ds.assets import resolve
from salad_ds.config import Recipe, TaskConfig
from salad_ds.data.utterances import Refused, Utterance
from salad_ds.errors import DataError, RecipeError
from salad_ds.evaluate.tasks import ai2, hellaswag, mmlu, piqa, recorded, storycloze, templates, voicebench, wordnet
from salad_ds.evaluate.tasks.items import Item, Task
from salad_ds.evaluate.tasks.layouts import Found, Layout, layout_of, read_items
from salad_ds.evaluate.tasks.records import find_files

Recordings = Callable[[str, Path, list[Item]], Iterator[Utterance | Refused]]


@dataclass(frozen=True)
class Benchmark:
    """``version``: raised whenever its records become other items. ``scored``: splits that may be asked, the best
    first: the first whose files have answers. ``worked``: those that may give worked examples. ``among``: a pattern of
    the paths that are meant where a directory holds more. ``whole``: shapes of a published spoken version that says
    more than the question, and so is read instead of the source. ``recordings``: of its published spoken version, by
    default files that are named as the items. ``cut``: these go on after the question, to be cut at its last word.
    ``source``: where its files are if the recipe does not say."""

    layouts: tuple[Layout, ...]
    template: str
    version: int = 1
    scored: tuple[str, ...] = ("test", "validation", "")
    worked: tuple[str, ...] = ("train", "validation")
    among: str = ""
    whole: tuple[Layout, ...] = ()
    recordings: Recordings = recorded.by_name
    cut: bool = False
    source: str = ""


BENCHMARKS = {
    "storycloze": Benchmark(storycloze.STORYCLOZE, "storycloze", recordings=storycloze.recordings, cut=True),
    "mmsu": Benchmark((voicebench.QUESTION,), "mmsu", whole=(voicebench.WHOLE,), recordings=voicebench.recordings),
    "openbookqa": Benchmark((*ai2.OPENBOOKQA, voicebench.QUESTION), "openbookqa", among=r"(^|/)main/|openbookqa/test-",
                            whole=(voicebench.WHOLE,), recordings=voicebench.recordings),
    "hellaswag": Benchmark(hellaswag.HELLASWAG, "hellaswag", scored=("validation", "")),
    "arc_challenge": Benchmark(ai2.ARC, "arc", among="challenge"),
    "arc_easy": Benchmark(ai2.ARC, "arc", among="easy"),
    "piqa": Benchmark(piqa.PIQA, "piqa", scored=("validation", "")),
    "mmlu": Benchmark(mmlu.MMLU, "mmlu", worked=("validation",), among="(^|/)all/", source="packaged:mmlu-dev"),
}  # fmt: skip
NAMES = ("wordnet", *BENCHMARKS)
"""The paper's six are storycloze, mmsu, openbookqa, hellaswag, arc_challenge and piqa."""


def load_task(task: TaskConfig, recipe: Recipe) -> Task:
    """The task of a recipe: at most ``task.items`` items, ``task.shots`` worked examples where there are as many.

    Which items are taken of more, and their order, is that of a hash of their ids: a few are of all domains, and more
    of them are those few and others. Examples come from a training split where the files have one, else from the end
    of that order; the same question is never in both. Raises RecipeError for an unknown task, one without files, or
    more items than there are; DataError for files that are not the benchmark.
    """
    if task.name == "wordnet":
        if task.speech:
            raise RecipeError("task wordnet has no published speech", "leave its speech empty")
        source = wordnet.source_of(task, recipe)
        items, examples = divided(task, wordnet.items_of(source), [])
        return Task("wordnet", 2, templates.find("wordnet"), items, examples, source=source)
    if task.name not in BENCHMARKS:
        near = difflib.get_close_matches(task.name, NAMES, n=1, cutoff=0.5)
        raise RecipeError(f"evaluate.tasks has {task.name!r}",
                          (f"did you mean {near[0]!r}? " if near else "") + f"the tasks are {', '.join(NAMES)}")
    return published(task, BENCHMARKS[task.name], recipe.data.max_bad_share)


def published(task: TaskConfig, benchmark: Benchmark, max_bad_share: float) -> Task:
    whole = bool(task.speech and benchmark.whole)
    layouts, named = (benchmark.whole, task.speech) if whole else (benchmark.layouts, task.source or benchmark.source)
    if not named:
        raise RecipeError(f"task {task.name} has no source", "say where its published files are: docs/benchmarks.md")
    source = Path(resolve(named, f"task {task.name}")).expanduser()
    files = find_files(source, benchmark.among)
    split, found = scored(task.name, source, files, benchmark, layouts, max_bad_share)
    # Published recordings are of the scored split alone, and examples are heard too.
    worked: list[Item] = []
    for other in () if task.speech or not task.shots else benchmark.worked:
        if other in files and other != split:
            worked = read_items(task.name, source, files[other], layouts, max_bad_share).items
            break
    items, examples = divided(task, shuffled(found.items), shuffled(worked))
    template = templates.find("voicebench" if whole else benchmark.template)
    speech = Path(task.speech).expanduser() if task.speech else None
    return Task(task.name, benchmark.version, template, items, examples, found.left_out.table(), str(named), speech)


def scored(name: str, source: Path, files: dict[str, list[Path]], benchmark: Benchmark, layouts: tuple[Layout, ...],
           max_bad_share: float) -> tuple[str, Found]:  # fmt: skip
    """The split that is asked, and its items. Where no split has the benchmark's columns the first one's error tells
    what it has instead."""
    splits = [split for split in benchmark.scored if split in files]
    if not splits:
        raise DataError(f"{source} holds {', '.join(sorted(files))} alone of {name}",
                        f"give its {benchmark.scored[0]} split")
    fitting = [split for split in splits if all(layout_of(path, layouts) for path in files[split])]
    split = (fitting or splits)[0]
    return split, read_items(name, source, files[split], layouts, max_bad_share)


def shuffled(items: list[Item]) -> list[Item]:
    return sorted(items, key=lambda item: hashlib.sha256(item.id.encode()).hexdigest())


def divided(task: TaskConfig, pool: list[Item], worked: list[Item]) -> tuple[list[Item], list[Item]]:
    """``(items, examples)``. Raises RecipeError where there are not as many."""
    times = Counter(item.asked for item in pool)
    examples = [item for item in worked if not times[item.asked]][: task.shots]
    items = pool
    if not worked:
        once = [item for item in pool if times[item.asked] == 1]
        examples = once[max(len(once) - task.shots, 0) :]
        items = [item for item in pool if item not in examples]
    short = not worked and len(examples) < task.shots
    if short or len(items) < max(task.items, 1):
        also = "" if worked else f" and {task.shots} worked"
        raise RecipeError(f"task {task.name} has {len(pool)} items: {task.items or 'all'} asked{also} are more",
                          "lower its items or its shots")  # fmt: skip
    items = items[: task.items] if task.items else items
    # An example is an item like the others, but two splits may use the same ids, and both are spoken.
    ids = {item.id for item in items}
    return items, [replace(one, id=f"worked-{one.id}") if one.id in ids else one for one in examples]
