"""What was not taken, and why: counted by reason, with a few examples that name the samples."""

from __future__ import annotations

from typing import Any

EXAMPLES = 5
FEW = 5
"""Fewer bad samples than this stop nothing, unless they are all there are."""


class Rejections:
    """Counts by reason. A sample is counted once per reason, however often it is met (a resumed run meets it again)."""

    def __init__(self) -> None:
        self.keys: dict[str, dict[str, str]] = {}

    def add(self, reason: str, key: str, detail: str = "") -> None:
        self.keys.setdefault(reason, {}).setdefault(key, detail)

    @property
    def count(self) -> int:
        return sum(map(len, self.keys.values()))

    def table(self) -> dict[str, Any]:
        """``{reason: {"count", "examples": ["key: detail", ...]}}``, the most frequent first."""
        rows = sorted(self.keys.items(), key=lambda row: (-len(row[1]), row[0]))
        return {reason: {"count": len(keys), "examples": [f"{key}: {detail}" if detail and detail != reason else key
                                                           for key, detail in list(keys.items())[:EXAMPLES]]}
                for reason, keys in rows}


def merge_tables(tables: list[dict[str, Any]]) -> dict[str, Any]:
    """One table from many, examples kept to the first few."""
    merged: dict[str, Any] = {}
    for table in tables:
        for reason, row in table.items():
            into = merged.setdefault(reason, {"count": 0, "examples": []})
            into["count"] += row["count"]
            into["examples"] = (into["examples"] + row["examples"])[:EXAMPLES]
    return dict(sorted(merged.items(), key=lambda row: (-row[1]["count"], row[0])))


def lines(title: str, table: dict[str, Any]) -> list[str]:
    """The table for people."""
    if not table:
        return []
    out = [f"{title}:"]
    for reason, row in table.items():
        out.append(f"  {row['count']:>7}  {reason}   e.g. {'; '.join(str(e)[:90] for e in row['examples'][:3])}")
    return out

def one_line(table: dict[str, Any]) -> str:
    """The table inside an error message."""
    return "; ".join(f"{row['count']} {reason} ({', '.join(map(str, row['examples'][:2]))})"
                     for reason, row in table.items())


def too_many(bad: int, total: int, share: float) -> bool:
    """Whether ``bad`` of ``total`` samples stop a stage. A FEW do not (in a small corpus a share says little) unless
    they are all there are, or none may be bad."""
    return bad > share * total and (bad >= FEW or bad == total or not share)
