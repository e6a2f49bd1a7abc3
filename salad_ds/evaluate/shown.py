"""The answers of all models as tables on the terminal."""

from __future__ import annotations

from typing import Any

from salad_ds.evaluate.results import CONDITIONS, overall

HEAD = ("model", "written", "spoken", "gap, points", "to base LLM, written", "items")


def table(models: dict[str, dict[str, dict[str, Any]]], seed: int) -> str:
    """One table per task, and one of the means where there are several. ``models``: {model: {task: summary}}."""
    tasks = list(dict.fromkeys(task for summaries in models.values() for task in summaries))
    parts = []
    for task in tasks:
        rows = {model: summaries[task] for model, summaries in models.items() if task in summaries}
        some = next(iter(rows.values()))
        chance = f", chance {some['chance']:.0%}" if "chance" in some else ""
        shots = f"{some['shots']['mean']:.3g}" if "mean" in some["shots"] else "0"
        parts.append(lines(f"{task} ({shots} worked examples{chance})", rows))
    if len(tasks) > 1:
        means = {model: overall(summaries, seed) for model, summaries in models.items()}
        parts.append(lines(f"mean of {len(tasks)} tasks", means))
    return "\n\n".join(parts)


def lines(title: str, rows: dict[str, dict[str, Any]]) -> str:
    cells: list[tuple[str, ...]] = [HEAD]
    for model, summary in rows.items():
        accuracies = [percent(summary[c]) if c in summary else "–" for c in CONDITIONS]
        gaps = [points(summary[name]) if name in summary else "–" for name in ("gap", "base_gap")]
        cells.append((model, *accuracies, *gaps, counted(summary)))
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEAD))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n  ".join([title, *shown])


def percent(part: dict[str, Any]) -> str:
    low, high = part["ci"]
    return f"{100 * part['accuracy']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def points(gap: dict[str, Any]) -> str:
    low, high = gap["ci"]
    return f"{100 * gap['mean']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}], p = {gap['p']:.2g}"


def counted(summary: dict[str, Any]) -> str:
    """How many items a number rests on, and of how many: ``40``, ``39 of 40``, ``12 of 40, not finished``."""
    of = "" if summary["items"] == summary["of"] else f" of {summary['of']:,}"
    return f"{summary['items']:,}{of}" + ("" if summary.get("complete", True) else ", not finished")
