"""A stage that tells itself to stop (SIGTERM) behind a step: ``python -m tests.train.until STEP RECIPE ...``."""

from __future__ import annotations

import os
import signal
import sys


def main(until: int, *arguments: str) -> int:
    from salad_ds.cli import main as salad
    from salad_ds.train.steps import StepLog

    write = StepLog.write

    def told(self, record):  # noqa: ANN001, ANN202
        write(self, record)
        if record["step"] == until and self.path.name == "log.jsonl":
            os.kill(os.getpid(), signal.SIGTERM)

    StepLog.write = told  # type: ignore[method-assign]
    code = salad(["train", *arguments])
    return 0 if code == 85 else code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), *sys.argv[2:]))
