"""Training whose checkpoint of one step is hurt while it is written: ``python -m tests.train.hurt_writer HOW STEP
RECIPE ...``. HOW: ``full``, rank 1 has no room; ``killed``, rank 0 is gone, and with it the job.

Both only once a further step was trained, which shows that nobody waits for the writer. The stage is the real one; what
writes a file is wrapped.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from pathlib import Path


def main(how: str, step: str, *arguments: str) -> int:
    from salad_ds.cli import main as salad
    from salad_ds.train.saver import Shards

    write, named, rank = Shards.write, f"step-{int(step):08d}.part", int(os.environ["RANK"])

    def hurt(self, state, path):  # noqa: ANN001, ANN202
        if named in path and rank == (how == "full"):
            log, end = Path(path).parents[2] / "log.jsonl", time.monotonic() + 120
            while f'"step": {int(step) + 1},' not in log.read_text():
                assert time.monotonic() < end, "no step was trained beside the writer"
                time.sleep(0.01)
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            self.fault = OSError(errno.ENOSPC, "No space left on device", path)
            return
        write(self, state, path)

    Shards.write = hurt  # type: ignore[method-assign]
    return salad(["train", *arguments])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
