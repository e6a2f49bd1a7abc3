"""A stage that is killed, as by the kernel, behind a step: ``python -m tests.train.dies STEP RECIPE ...``."""

from __future__ import annotations

import os
import signal
import sys


def main(behind: int, *arguments: str) -> int:
    from salad_ds.cli import main as salad
    from salad_ds.train.steps import StepLog

    write = StepLog.write

    def told(self, record):  # noqa: ANN001, ANN202
        write(self, record)
        if record["step"] == behind and self.path.name == "log.jsonl":
            os.kill(os.getpid(), signal.SIGKILL)

    StepLog.write = told  # type: ignore[method-assign]
    return salad(["train", *arguments])


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), *sys.argv[2:]))
