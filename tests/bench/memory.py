"""Peak memory of real training against the plan's.

    python -m tests.bench.memory [--write] [--work DIR] [--cases N]

Each line is a training launched by ``deepspeed`` under ZeRO-2 or ZeRO-3 with real steps of the training loop (speech,
text, the fused loss, AdamW). *Measured*: the most that torch's allocator held during two steps behind two others. On
CUDA that is torch.cuda.max_memory_allocated; a CPU has no such counter, so there the bytes of all tensors alive before
the steps are added up, and torch's profiler tells of every allocation and release within them. *Resident*: the rise of
the process's own high-water mark (VmHWM, reset before the step) over its size before any model was built; it also has
pages that were freed and kept, buffers of gloo and oneDNN and code loaded late, and lacks what was never written to.
Results are kept in DIR: a second call takes up what is missing. ``--write`` puts the table into docs/bench/memory.md.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import torch

from salad_ds.files import write_text
from salad_ds.plan.limits import size
from tests.bench.measured import Case

CASES = [
    Case(),
    Case(stage=2),
    Case(ranks=1, width=512, layers=8, tied=False, micro_batch=2, checkpointing=True, passes=2),
    Case(width=512, layers=8, tied=False, micro_batch=2, stage=2, passes=2),
    Case(ranks=4, micro_batch=2),
    Case(width=512, layers=8, tied=False, micro_batch=2),
]
PAGE = Path(__file__).parents[2] / "docs/bench/memory.md"
HEAD = "| LLM | ranks | ZeRO | rows × passes | checkpointing | measured | planned | planned / measured | resident |"


def measure(case: Case, work: Path) -> tuple[str, float]:
    """A line of the table, and the ratio."""
    kept = work / case.name / "told.json"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(case.run(kept.parent, "memory")))
    told = json.loads(kept.read_text())
    most = max(told, key=lambda rank: rank["peak"])
    planned, shapes, _ = case.planned(kept.parent, most["batch"])
    ratio = planned.peak / most["peak"]
    resident = size(most["resident"]) if "resident" in most else ""
    cells = [f"{shapes.trained / 1e6:.0f} M, {'tied' if case.tied else 'untied'}", case.ranks, case.stage,
             f"{case.micro_batch} × {case.passes}", "yes" if case.checkpointing else "no", size(most["peak"]),
             size(planned.peak), f"**{ratio:.3f}**", resident]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |", ratio


def page(lines: list[str], ratios: list[float]) -> str:
    text = (__doc__ or "").split("\n", 4)[4]
    text = text.replace("``", "`").strip()
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()}, CPU, float32"
    far = max(abs(ratio - 1) for ratio in ratios)
    return "\n".join([
        "# Memory: planned and measured", "", "Written by `python -m tests.bench.memory --write`.", "",
        f"{where}; torch {torch.__version__}. {text}", "", f"Farthest from 1: {far:.1%}.", "",
        HEAD, "|---" * (HEAD.count("|") - 1) + "|", *lines, "",
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--cases", type=int, default=len(CASES), help="only the first so many")
    parser.add_argument("--work", type=Path, default=Path("runs/bench-memory"))
    arguments = parser.parse_args()
    print(HEAD, flush=True)
    lines, ratios = [], []
    for case in CASES[: arguments.cases]:
        line, ratio = measure(case, arguments.work.absolute())
        print(line, flush=True)
        lines.append(line)
        ratios.append(ratio)
    if arguments.write:
        write_text(PAGE, page(lines, ratios))


if __name__ == "__main__":
    main()
