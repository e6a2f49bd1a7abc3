"""Training whose loss is not a number in chosen batches: ``python -m tests.train.faulty RECIPE WORKDIR BATCHES``.

Everything is the real stage; one method is wrapped, after its work.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from salad_ds.config import load_recipe
from tests.train.launch import REPOSITORY, command, environment

STAGE = {"steps": 8, "checkpoint_every": 2, "bad_steps": 3, "warmup_steps": 0, "decay_share": 0}
SETTINGS = [f"stages.stage1.{name}={value}" for name, value in STAGE.items()]


def run(prepared: Path, work: Path, bad: str, succeeds: bool = True) -> str:
    """Eight steps on two ranks in a copy of the prepared work directory; returns what the job said."""
    shutil.copytree(load_recipe(prepared).path("."), work)
    done = subprocess.run(command(2, "tests.train.faulty", prepared, work, bad or "-"), env=environment(),
                          cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240)
    assert (done.returncode == 0) == succeeds, done.stdout[-4000:]
    return done.stdout


def main(recipe: str, work: str, bad: str) -> int:
    from salad_ds.cli import main as salad
    from salad_ds.train.steps import Stepper

    batches = {int(number) for number in bad.split(",")} if bad != "-" else set()
    forward, calls = Stepper.forward, iter(range(1, 10**6))

    def spoilt(self, fed):  # noqa: ANN001, ANN202
        loss, told = forward(self, fed)
        return (loss, told * float("nan")) if next(calls) in batches else (loss, told)

    Stepper.forward = spoilt  # type: ignore[method-assign]
    return salad(["train", recipe, f"workdir={work}", *SETTINGS])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
