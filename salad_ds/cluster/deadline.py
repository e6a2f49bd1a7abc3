"""An end for collectives that have none."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading


class Deadline:
    """A context manager: what has not ended ``seconds`` later is a network that loses what is sent (a blocked port, a
    wrong interface), in which a collective would wait for ever. The process says so, with its stacks, and ends."""

    def __init__(self, seconds: float, rank: int, host: str) -> None:
        self.seconds, self.rank, self.host = seconds, rank, host
        self.timer = threading.Timer(seconds, self.end)
        self.timer.daemon = True

    def __enter__(self) -> Deadline:
        self.timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.timer.cancel()

    def end(self) -> None:
        faulthandler.dump_traceback(sys.stderr, all_threads=False)
        told = ", ".join(f"{name}={os.environ[name]}" for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
                         if name in os.environ)
        print(f"salad-ds: rank {self.rank} on {self.host}: the process group or its all-reduce has not "
              f"ended within {self.seconds:.0f} s\n  mend: choose the interface that leads to the other hosts "
              f"(--interface NAME; now {told or 'chosen by gloo and NCCL'}), and open the ports between them; "
              "NCCL_DEBUG=INFO says what NCCL tries", file=sys.stderr, flush=True)  # fmt: skip
        os._exit(1)
