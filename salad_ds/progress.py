"""Progress with rate and time left: a bar on a terminal, plain lines every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm


def clock(seconds: float) -> str:
    """``75.3`` → ``1:15``."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Progress:
    """A counter that shows itself. ``update(n, note)`` counts ``n`` more; use as a context manager.

    On a terminal this is a tqdm bar; elsewhere (logs, CI, cluster jobs) one plain line at most every
    ``every`` seconds and one at the end.
    """

    def __init__(self, label: str, total: int | None, unit: str = "it", every: float = 10.0,
                 done: int = 0, quiet: bool = False) -> None:
        self.label, self.total, self.unit, self.every, self.quiet = label, total, unit, every, quiet
        self.count, self.first, self.said = done, done, -1
        self.note = ""
        self.started = self.spoken = time.monotonic()
        self.bar = None
        if not quiet and sys.stderr.isatty():
            self.bar = tqdm(total=total, desc=label, unit=unit, initial=done, dynamic_ncols=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close(failed=kind is not None)

    def update(self, n: int = 1, note: str = "") -> None:
        self.count += n
        self.note = note or self.note
        if self.bar is not None:
            if note:
                self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(n)
        elif time.monotonic() - self.spoken >= self.every:
            self.say()

    def say(self) -> None:
        self.spoken = time.monotonic()
        if self.quiet or self.said == self.count:
            return
        self.said = self.count
        spent = self.spoken - self.started
        rate = (self.count - self.first) / spent if spent > 0 else 0.0
        line = f"{self.label}: {self.count}" + (f"/{self.total}" if self.total is not None else "")
        line += f" {self.unit}, " + (f"{rate:.1f}/s" if rate >= 1 or not rate else f"{1 / rate:.1f} s each")
        if self.total is not None and rate > 0 and self.count < self.total:
            line += f", {clock((self.total - self.count) / rate)} left"
        print(line + (f", {self.note}" if self.note else ""), file=sys.stderr, flush=True)

    def close(self, failed: bool = False) -> None:
        if self.bar is not None:
            self.bar.close()
        elif not failed:
            self.say()
