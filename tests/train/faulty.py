"""Training whose loss is not a number in chosen batches: ``python -m tests.train.faulty BATCHES RECIPE ...``.

BATCHES are micro-batches of a rank, counted from 1, with commas between; what follows is that of ``salad-ds train``.
Everything is the real stage; one method is wrapped, after its work.
"""

from __future__ import annotations

import sys


def main(bad: str, *arguments: str) -> int:
    from salad_ds.cli import main as salad
    from salad_ds.train.steps import Stepper

    batches = {int(number) for number in bad.split(",")}
    forward, calls = Stepper.forward, iter(range(1, 10**6))

    def spoilt(self, fed):  # noqa: ANN001, ANN202
        loss, told = forward(self, fed)
        if next(calls) in batches:
            told[:3] *= float("nan")  # sums of KL, NLL and entropy; what follows counts
        return loss, told

    Stepper.forward = spoilt  # type: ignore[method-assign]
    return salad(["train", *arguments])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
