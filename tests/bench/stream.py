"""The stream against plain webdataset (and lhotse, where it is installed): the same shards, the same decoding and
resampling, in turns, in one process on one core.

    python -m tests.bench.stream [WORKDIR] [--turns 7] [--rows 12] [--write]

WORKDIR (runs/bench-stream) gets the demo's corpora and word times where it has not got them. Then: what workers add,
how much of the rows is padding, what a worker holds in memory at 100,000 shards, and what crosses the pipe. ``--write``
puts the page into docs/bench/stream.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import torch

import salad_ds
from salad_ds.align.run import align
from salad_ds.config import DataConfig, Recipe, SourceConfig, load_recipe
from salad_ds.data.collate import Sequence, collate
from salad_ds.data.interleave import Piece
from salad_ds.data.lanes import Course, Journal, Lane, LaneState
from salad_ds.data.plan import Plan, Planner
from salad_ds.data.prepare import prepare
from salad_ds.data.stream import Stream
from salad_ds.data.workers import Here
from salad_ds.environment import cores
from salad_ds.hearing import Hearing
from salad_ds.model.build import load_tokenizer
from tests.bench.stream_rivals import lhotse_shar, plain_webdataset

DEMO = Path(salad_ds.__file__).parent / "recipes/demo.yaml"
PAGE = Path(__file__).parents[2] / "docs/bench/stream.md"
MIMI = Hearing(24000, ((1, 1920),))
CONTEXT, LANES = 2048, 8
SPEECH, TEXT = SourceConfig("speech", "speech/natural"), SourceConfig("text", "text/plain")


def planner_for(recipe: Recipe, sources: list[SourceConfig], **data) -> Planner:
    settings = DataConfig(context=CONTEXT, max_bad_share=0.5, **data)
    return Planner(sources, recipe.path, settings, load_tokenizer(recipe.model), MIMI)


def ours(planner: Planner) -> Iterator[list[Sequence]]:
    rows = Here(planner, 0, LANES, range(LANES), [LaneState()] * LANES)
    step = 0
    while True:
        for lane in range(LANES):
            yield rows.row(step, lane).sequences
        step += 1


def turn(rows: Iterator[list[Sequence]], count: int) -> tuple[float, float, float]:
    """Seconds, positions and seconds of recordings heard of ``count`` rows, collated one by one."""
    began, positions, heard = time.perf_counter(), 0, 0.0
    for row in islice(rows, count):
        batch = collate([row], 0, CONTEXT, np.zeros(MIMI.shortest, np.float32))
        positions += batch.used_positions
        heard += sum(piece.end - piece.start for sequence in row for piece in sequence.pieces if piece.speech)
    return time.perf_counter() - began, positions, heard


def race(makers: dict[str, Callable[[], Iterator[list[Sequence]]]], turns: int, count: int) -> list[str]:
    """A table: median positions and hours of heard speech per second of one core, and ours against each."""
    runners = {name: make() for name, make in makers.items()}
    measured: dict[str, list[tuple[float, float, float]]] = {name: [] for name in runners}
    for rows in runners.values():
        turn(rows, 4)
    for number in range(turns):
        for name in list(runners)[:: 1 if number % 2 else -1]:
            measured[name].append(turn(runners[name], count))
    rates = {name: [positions / seconds for seconds, positions, _ in found] for name, found in measured.items()}
    first = next(iter(rates))
    lines = ["| loader | packed positions/s | hours heard per hour | filled | ours / it |", "|---|---|---|---|---|"]
    for name, found in measured.items():
        ratios = [mine / theirs for mine, theirs in zip(rates[first], rates[name], strict=True)]
        heard = statistics.median(heard / seconds for seconds, _, heard in found)
        used = sum(positions for _, positions, _ in found) / (turns * count * CONTEXT)
        lines.append(f"| {name} | {statistics.median(rates[name]):,.0f} | {heard:,.0f} | {used:.1%} | "
                     f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f}-{max(ratios):.2f}) |")  # fmt: skip
    return lines


def scaling(recipe: Recipe, sources: list[SourceConfig], steps: int) -> list[str]:
    """Whole streams with 0, 1, 2, … workers: positions per second, time to the first step, memory of a worker."""
    lines = ["| workers | packed positions/s | first step after | MB per worker (of its own) |", "|---|---|---|---|"]
    for workers in (0, 1, 2, 4):
        if workers > cores():
            break
        began = time.perf_counter()
        walked = iter(Stream(planner_for(recipe, sources, workers=workers), 0, LANES, 2))
        next(walked)
        first, began = time.perf_counter() - began, time.perf_counter()
        used = sum(batch.used_positions for step in islice(walked, steps) for batch in step.batches)
        rate = used / (time.perf_counter() - began)
        lines.append(f"| {workers} | {rate:,.0f} | {first:.1f} s | {memory() if workers else ''} |")
        walked.close()
    return lines


def memory() -> str:
    """Resident and unshared memory of the loader processes, MB: the largest."""
    children = [p for p in psutil.Process().children(recursive=True) if p.parent().pid != os.getpid()]
    found = [p.memory_full_info() for p in children if p.status() != psutil.STATUS_ZOMBIE]
    return f"{max(m.rss for m in found) / 1e6:.0f} ({max(m.uss for m in found) / 1e6:.0f})"


def many_shards(recipe: Recipe, shards: int, steps: int) -> list[str]:
    """A worker on a corpus of ``shards`` shards: a manifest whose rows all lead to the demo's tars."""
    place = Path(tempfile.mkdtemp(prefix="many-shards-"))
    try:
        demo = recipe.path("speech/natural")
        manifest = json.loads((demo / "manifest.json").read_text())
        rows = []
        for number in range(shards):
            row = manifest["shards"][number % len(manifest["shards"])]
            stem = Path(row["name"]).stem
            for ending in (".index.json", ".words.jsonl"):
                os.link(demo / (stem + ending), place / f"{number:06d}{ending}")
            rows.append(row | {"name": f"{number:06d}.tar", "url": str(demo.resolve() / row["name"])})
        (place / "manifest.json").write_text(json.dumps(manifest | {"shards": rows}))
        began = time.perf_counter()
        planner = planner_for(recipe, [SourceConfig("speech", str(place))], workers=1)
        opened, began = time.perf_counter() - began, time.perf_counter()
        walked = iter(Stream(planner, 0, LANES, 2))
        next(walked)
        first, before = time.perf_counter() - began, memory()
        for _ in islice(walked, steps):
            pass
        said = (f"{shards:,} shards, {len(planner.shards[0]):,} samples: opened in {opened:.1f} s, first step after "
                f"{first:.1f} s; a worker holds {before} MB then and {memory()} MB after {steps * LANES} more rows "
                "(resident; of its own in parentheses).")  # fmt: skip
        walked.close()
        return [said]
    finally:
        shutil.rmtree(place)


class Lengths:
    """A planner of samples of which only the length is known: lanes pack them as any others."""

    def __init__(self, draw: Callable[[np.random.Generator, int], int], sources: int, context: int) -> None:
        self.sources = [SourceConfig("text", str(k)) for k in range(sources)]
        shards = SimpleNamespace(shards=range(64), samples_in=lambda n: range(1000 * n, 1000 * n + 1000))
        self.shards, self.data = [shards] * sources, DataConfig(context=context)
        self.skipped, self.draw = Journal(), draw

    def plan(self, source: int, epoch: int, index: int, seed: int) -> Plan:
        length = min(self.draw(np.random.default_rng([seed, source, epoch, index]), source), self.data.context)
        return Plan(source, index, "", (), [Piece(False, 0, length, length)])


def normal(mean: float, spread: float, least: int = 20) -> Callable[[np.random.Generator], int]:
    return lambda rng: max(int(rng.normal(mean, spread)), least)


def lognormal(middle: float, spread: float) -> Callable[[np.random.Generator], int]:
    return lambda rng: max(int(middle * np.exp(rng.normal(0, spread))), 8)


MIXES = {
    "utterances of 15 s": [normal(125, 35)],
    "utterances joined to 60 s": [normal(500, 150, 60)],
    "paragraphs (median 120 tokens)": [lognormal(120, 0.7)],
    "documents (median 700 tokens, a tenth cut)": [lognormal(700, 0.9)],
    "15 s and documents": [normal(125, 35), lognormal(700, 0.9)],
    "60 s and documents": [normal(500, 150, 60), lognormal(700, 0.9)],
}


def padding(rows: int = 400) -> list[str]:
    lines = ["| samples | padding | bytes of state per lane |", "|---|---|---|"]
    for name, parts in MIXES.items():
        planner = Lengths(lambda rng, source, parts=parts: parts[source](rng), len(parts), CONTEXT)
        lane = Lane(planner, Course(planner, LANES, 0), 0, LaneState())  # type: ignore[arg-type]
        used = sum(plan.positions for _ in range(rows) for plan in lane.plans())
        waiting = [pair for pair, _ in lane.waiting]
        size = len(json.dumps(LaneState(lane.taken, lane.spent, waiting, 99999, 99).as_json()))
        lines.append(f"| {name} | {1 - used / (rows * CONTEXT):.2%} | {size} |")
    return lines


def beside(part: str, options: argparse.Namespace) -> list[str]:
    """``scaling`` or ``many_shards`` in a process of its own: what this one has imported its workers would hold too."""
    call = f"from tests.bench.stream import apart; apart({part!r}, {options.workdir!r}, {options.shards})"
    done = subprocess.run([sys.executable, "-c", call], check=True, stdout=subprocess.PIPE, text=True, timeout=1800)
    return done.stdout.splitlines()


def apart(part: str, workdir: str, shards: int) -> None:
    torch.set_num_threads(1)
    recipe = load_recipe(DEMO, [f"workdir={workdir}"])
    lines = scaling(recipe, [SPEECH, TEXT], 24) if part == "scaling" else many_shards(recipe, shards, 40)
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir", nargs="?", default="runs/bench-stream")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe(DEMO, [f"workdir={options.workdir}"])
    recipe.stages, recipe.synthesize.text = {}, ""
    prepare(recipe)
    align(recipe)
    alone = planner_for(recipe, [SPEECH], workers=0)
    makers = {"salad_ds": lambda: ours(alone),
              "webdataset, spans resampled": lambda: plain_webdataset(alone, whole=False),
              "webdataset, recordings resampled": lambda: plain_webdataset(alone, whole=True)}  # fmt: skip
    if importlib.util.find_spec("lhotse"):
        makers["lhotse (Shar, recordings resampled)"] = lambda: lhotse_shar(alone)
    page = [
        "# The stream", "",
        "Written by `python -m tests.bench.stream --write`.", "",
        f"{platform.processor() or platform.machine()}, {cores()} cores, load {os.getloadavg()[0]:.1f} at the start; "
        f"torch {torch.__version__}. Human speech of the demo (16 kHz FLAC, 13 s on average) for Mimi (24 kHz, 12.5 "
        f"positions/s), rows of {CONTEXT} positions.", "",
        "## One core, in turns", "",
        f"Median of {options.turns} turns of {options.rows} rows, in one process; every loader decodes with the same "
        "function, resamples with the same filters, tokenises, interleaves and collates with the same code. Ours "
        "decodes the spans that are heard and seeks over the rest; a loader that hands over whole samples cannot."
        + ("" if len(makers) == 4 else " lhotse is not installed here."), "",
        *race(makers, options.turns, options.rows), "",
        "## Workers", "", *beside("scaling", options), "",
        "## Padding", "", f"Rows of {CONTEXT} positions, packed by a lane from samples of given lengths.", "",
        *padding(), "",
        "## Many shards", "", *beside("many_shards", options), "",
    ]  # fmt: skip
    print("\n".join(page))
    if options.write:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text("\n".join(page), encoding="utf-8")


if __name__ == "__main__":
    main()
