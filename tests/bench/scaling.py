"""Weak scaling: the same rows per rank on 1, 2 and 4 ranks, ZeRO-3, under the deepspeed launcher.

    python -m tests.bench.scaling [--write] [--work DIR] [--steps 4] [--ranks 1 2 4]

Each rank has one thread of torch and trains real steps (speech, text, the fused loss, AdamW). Ideal is as many times
the positions per second as there are ranks; a machine with fewer cores than ranks cannot give more than its cores, and
the table says what share of *that* was reached. Seconds are the median of the steps behind two others. *Received*:
bytes of parameters and gradients that each rank received in a step, counted in the collectives and as planned.
Results are kept in DIR: a second call takes up what is missing. ``--write`` puts the table into docs/bench/scaling.md
and the picture into docs/bench/scaling.png.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from statistics import median

import matplotlib
import torch

from salad_ds.files import write_text
from salad_ds.plan.hardware import cluster
from salad_ds.plan.limits import size
from salad_ds.plan.traffic import traffic
from tests.bench.measured import Case

PAGE = Path(__file__).parents[2] / "docs/bench/scaling.md"
HEAD = "| ranks | s per step | positions/s | times one rank | of ideal | of what the cores give | received | planned |"


def measure(ranks: int, work: Path, steps: int) -> dict[str, float]:
    case = Case(width=256, layers=4, micro_batch=2, ranks=ranks)
    kept = work / case.name / "told.json"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps([case.run(kept.parent, "time", steps), os.getloadavg()[0]]))
    told, load = json.loads(kept.read_text())
    _, shapes, zero = case.planned(kept.parent, told[0]["batch"])
    moved = traffic(shapes, zero, cluster(1, ranks, "h200"), 1, False)
    counted = sum(told[0]["traffic"][name] for name in ("all_gather_into_tensor", "reduce_scatter_tensor"))
    seconds = median(max(rank["seconds"][step] for rank in told) for step in range(len(told[0]["seconds"])))
    return {"ranks": ranks, "seconds": seconds, "rate": told[0]["positions"] / seconds, "planned": moved.within,
            "received": counted * (ranks - 1) / ranks, "load": load}  # fmt: skip


def lines(rows: list[dict[str, float]], cores: int) -> list[str]:
    one = rows[0]["rate"]
    return [
        f"| {row['ranks']} | {row['seconds']:.2f} | {row['rate']:,.0f} | {row['rate'] / one:.2f} | "
        f"{row['rate'] / one / row['ranks']:.0%} | {row['rate'] / one / min(row['ranks'], cores):.0%} | "
        f"{size(row['received'])} | {size(row['planned'])} |"
        for row in rows
    ]


def picture(rows: list[dict[str, float]], cores: int, path: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    ranks = [row["ranks"] for row in rows]
    figure, axes = pyplot.subplots(figsize=(5, 3.2), layout="constrained")
    axes.plot(ranks, [rows[0]["rate"] * n for n in ranks], ":", color="gray", label="ideal")
    axes.plot(ranks, [rows[0]["rate"] * min(n, cores) for n in ranks], "--", color="gray", label=f"{cores} cores")
    axes.plot(ranks, [row["rate"] for row in rows], "o-", label="measured")
    axes.set(xlabel="ranks, the same rows on each", ylabel="positions per second", xticks=ranks, ylim=(0, None))
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)


def page(rows: list[dict[str, float]], cores: int) -> str:
    text = (__doc__ or "").split("\n", 4)[4].replace("``", "`").strip()
    over = [row["ranks"] for row in rows if row["ranks"] > cores]
    shows = (f"{over[-1]:g} ranks share {cores} cores here: that line shows what synchronising more ranks than cores "
             "costs, not how training scales. ") if over else ""  # fmt: skip
    return "\n".join([
        "# Weak scaling", "", "Written by `python -m tests.bench.scaling --write`.", "",
        f"{platform.machine()}, {cores} cores, load {max(row['load'] for row in rows):.0f} (what else ran is in every "
        f"figure); torch {torch.__version__}, gloo, float32. {shows}{text}", "", HEAD,
        "|---" * (HEAD.count("|") - 1) + "|", *lines(rows, cores), "", "![Weak scaling](scaling.png)", "",
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--work", type=Path, default=Path("runs/bench-scaling"))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    rows = [measure(ranks, arguments.work.absolute(), arguments.steps) for ranks in arguments.ranks]
    print("\n".join([HEAD, *lines(rows, cores)]))
    if arguments.write:
        write_text(PAGE, page(rows, cores))
        picture(rows, cores, PAGE.with_suffix(".png"))


if __name__ == "__main__":
    main()
