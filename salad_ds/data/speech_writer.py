"""From the utterances of a corpus to speech shards: several processes, one order.

Decoding and encoding go to worker processes; tars are written here, in the corpus's order, so that their bytes and the
tables of what was refused do not depend on the number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from salad_ds.data.ordered import in_order
from salad_ds.data.parts import WHOLE, Part
from salad_ds.data.shard_writer import ShardWriter, finished
from salad_ds.data.utterances import Made, Refused, Task, Utterance, join, make, sound
from salad_ds.environment import own_cores
from salad_ds.progress import Progress, clock

MOST_WORKERS = 8
"""Unless they are asked for. One process reads the transcripts, writes the tars and hashes them: 1.4 ms to an utterance
of 15 s, which takes 5-7 ms to decode and encode. What more cores can do is for more parts."""
Unit = Iterable[Utterance | Refused]
"""What a corpus says about a file or chapter, in order. Neighbours are joined inside a unit only, so that dividing the
units among parts changes no sample."""


def prepare_utterances(output_dir: str | Path, source: str, made_from: dict[str, Any],
                       units: Callable[[], Iterable[Unit]], total: Callable[[], int], *, limit: int,
                       samples_per_shard: int, join_seconds: float, workers: int, max_bad_share: float,
                       own: Part = WHOLE, words_engine: str | None = None) -> dict[str, Any]:
    """Write a corpus as speech shards; returns the manifest. Does nothing where they lie there already: ``units`` (of
    the part ``own``) and ``total``, their utterances, are asked for only where there is work. See write_utterances and
    ShardWriter for the rest.
    """
    done = finished(output_dir, made_from, own, max_bad_share)
    if done is not None:
        return done
    found = units()
    with ShardWriter(output_dir, source, samples_per_shard, made_from, words_engine=words_engine,
                     max_bad_share=max_bad_share, part=own) as writer:
        write_utterances(writer, found, join_seconds, limit, workers, total())
        return writer.close()


def write_utterances(writer: ShardWriter, units: Iterable[Unit], join_seconds: float = 0.0, limit: int = 0,
                     workers: int = 0, total: int | None = None, quiet: bool = False) -> None:
    """Write the units of ``writer.part`` (and only those: see Part.take) through ``writer``; bad ones are refused by
    name, none is fatal.

    ``join_seconds``: see utterances.join. ``limit``: at most this many samples over all parts (0: all). ``workers``:
    processes; 0 for one per core, at most MOST_WORKERS. ``total``: utterances in these units, for the progress.
    """
    most = writer.part.share(limit)
    label = writer.source if writer.part.whole else f"{writer.source} {writer.part}"
    with Progress(label, total, "utterances", quiet=quiet) as progress:
        if most == 0:
            return
        todo = tasks(writer, units, join_seconds)
        for item, made in in_order(make_task, todo, workers, min(own_cores(), MOST_WORKERS), is_ready):
            if isinstance(item, Refused):
                refuse(writer, item)
                progress.update(item.utterances)
                continue
            take(writer, item, made)
            progress.update(sum(part.utterances for part in item.parts),
                            f"{clock(writer.seconds)} of speech, {writer.rejections.count} rejected")
            if most is not None and writer.passed >= most:
                return


def take(writer: ShardWriter, task: Task, made: Made | None) -> None:
    """Write what was made, and count what was refused."""
    if made is None and not task.kept:
        writer.reject("kills its process", task.parts[0].id, str(task.parts[0].path))
    elif writer.begin(task.key) and made is not None:
        if made.sample is not None:
            writer.add(made.sample, made.words, beside=[(row.reason, row.key, row.detail) for row in made.refused])
            return
        for refused in made.refused:
            refuse(writer, refused)


def tasks(writer: ShardWriter, units: Iterable[Unit], join_seconds: float) -> Iterator[Task | Refused]:
    for unit in units:
        for item in join(sound(unit, measured=join_seconds > 0), join_seconds):
            if isinstance(item, Refused):
                yield item
            else:
                task = Task.of(item)
                yield Task(task.key, task.parts, kept=True) if writer.has(task.key) else task


def is_ready(item: Task | Refused) -> bool:
    return isinstance(item, Refused) or item.kept


def make_task(item: Task | Refused) -> Made:
    """``make``, in a worker, of what is not ready."""
    assert isinstance(item, Task)
    return make(item)


def refuse(writer: ShardWriter, refused: Refused) -> None:
    (writer.reject if refused.bad else writer.leave_out)(refused.reason, refused.key, refused.detail)
