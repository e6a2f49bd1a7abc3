"""What a fault is, and what is told of one that was inflicted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.faults.room import Room


class NotAsPromised(Exception):
    """The product did something else than it promises: no reason, a wrong exit code, no resume."""


class TooLate(Exception):
    """The job was over before the fault could be inflicted: nothing was tried."""


@dataclass(frozen=True)
class Told:
    """``happened``: in words, from what the job itself said. ``lost``: what was found missing or different; empty for
    nothing."""

    happened: str
    lost: list[str]


@dataclass(frozen=True)
class Fault:
    """``inflict``: does it to a real run in the room's work directory, mends what has to be mended, lets the run go on
    to its end and compares it with one that was left alone. ``lacking``: why that cannot be done here, "" if it can."""

    name: str
    what: str
    inflict: Callable[[Room], Told]
    lacking: Callable[[], str] = lambda: ""


@dataclass(frozen=True)
class Result:
    """One line of the results, and of the table."""

    fault: str
    what: str
    happened: str
    lost: list[str] = field(default_factory=list)
    skipped: str = ""
    """Why it was not inflicted."""
    broken: str = ""
    """What was not as promised."""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return not (self.lost or self.broken)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def short(text: str, most: int = 170) -> str:
    """One line of at most ``most`` characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"
