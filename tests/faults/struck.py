"""``python -m tests.faults.struck HOW VERB RECIPE ...``: salad-ds, struck at an exact place of its work.

HOW is one of

    before=PATTERN    SIGKILL to the process itself when it is about to give a file or directory a name like PATTERN
    after=PATTERN     the same, right behind that
    half=PATTERN      SIGKILL when half of a tensor file below a directory like PATTERN is written
    nan=5,6           the loss of these batches (counted from the process's first) is not a number
    spike=9           the loss of these batches is a hundred times what it is

Everything else is the real thing: one function of the standard library, of torch or of the step is wrapped.
"""

from __future__ import annotations

import os
import signal
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def strike_names(pattern: str, before: bool) -> None:
    def struck(rename: Any) -> Any:
        def call(source: Any, target: Any, *rest: Any, **named: Any) -> None:
            hit = fnmatch(Path(target).name, pattern)
            if hit and before:
                die()
            rename(source, target, *rest, **named)
            if hit:
                die()
        return call

    os.rename, os.replace = struck(os.rename), struck(os.replace)


def strike_tensors(pattern: str) -> None:
    import torch

    save = torch.save

    def struck(value: Any, file: Any, *rest: Any, **named: Any) -> None:
        save(value, file, *rest, **named)
        path = Path(getattr(file, "name", file))
        if fnmatch(path.parent.name, pattern):
            os.truncate(path, path.stat().st_size // 2)
            die()

    torch.save = struck


def strike_losses(batches: set[int], factor: float) -> None:
    from salad_ds.train.steps import Stepper

    forward, calls = Stepper.forward, iter(range(1, 10**6))

    def struck(self: Any, fed: Any) -> Any:
        loss, told = forward(self, fed)
        if next(calls) in batches:
            told[:3] *= factor  # sums of KL, NLL and entropy; what follows counts positions
        return loss, told

    Stepper.forward = struck  # type: ignore[method-assign]


def main(how: str, *arguments: str) -> int:
    from salad_ds.cli import main as salad

    kind, _, where = how.partition("=")
    if kind in ("before", "after"):
        strike_names(where, kind == "before")
    elif kind == "half":
        strike_tensors(where)
    else:
        strike_losses({int(number) for number in where.split(",")}, {"nan": float("nan"), "spike": 100.0}[kind])
    return salad(list(arguments))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
