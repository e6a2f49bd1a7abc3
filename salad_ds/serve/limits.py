"""What a visitor may ask for, and the error that says so."""

from __future__ import annotations

from dataclasses import dataclass

from salad_ds.errors import DataError

TEXT, WORDS = 500, 3000
"""Longest text around the clip, and longest transcript, in characters."""
CLIPS = 16
"""Clips kept in memory; the one that was used least recently gives way."""


@dataclass(frozen=True)
class Limits:
    """``seconds``: longest clip. ``bytes``: largest upload. ``tokens``: longest answer. ``waiting``: visitors that may
    wait behind the one who is answered."""

    seconds: float = 30.0
    bytes: int = 32 << 20
    tokens: int = 200
    waiting: int = 8


class Refused(DataError):
    """A request that is not served; ``status``: HTTP's."""

    def __init__(self, status: int, what: str, mend: str) -> None:
        self.status = status
        super().__init__(what, mend)
