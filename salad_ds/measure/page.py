"""The pieces of the report's page: escaped text, tables, tiles, figures, and the frame around them.

A page needs no network: styles, figures and audio are inside it, and its script where it has one (the report has none).
Its content policy forbids the rest.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources

NOT_RUN = '<span class="none">not run</span>'
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"


def text(value: object) -> str:
    return escape(str(value))


def number(value: float, digits: int = 3) -> str:
    """A figure with its sign as a real minus; a dash where there is none."""
    return "–" if not math.isfinite(value) else f"{value:,.{digits}f}".replace("-", "−")


def digits_for(error: float) -> int:
    """Decimals that show a standard error: three, or up to six for a small one."""
    if not math.isfinite(error) or error < 1e-5:
        return 3
    return min(6, max(3, -math.floor(math.log10(error))))


def mean_se(row: dict[str, float] | None) -> str:
    """``0.123 ± 0.004``; without a standard error (one utterance) the mean alone."""
    if row is None:
        return NOT_RUN
    error = row.get("se", math.nan)
    digits = digits_for(error)
    spread = f' <span class="se">± {number(error, digits)}</span>' if math.isfinite(error) else ""
    return number(row["mean"], digits) + spread


def percent(value: float, digits: int = 1) -> str:
    return "–" if not math.isfinite(value) else f"{value * 100:.{digits}f} %".replace("-", "−")


def interval(low: float, high: float) -> str:
    return f'<span class="se">{number(low * 100, 1)} to {number(high * 100, 1)}</span>'


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], classes: Sequence[str] = ()) -> str:
    """A table whose first column names its rows. Cells are HTML already; ``classes`` are per column."""

    def cell(tag: str, index: int, content: str, scope: str = "") -> str:
        name = f' class="{classes[index]}"' if index < len(classes) and classes[index] else ""
        heads = f' scope="{scope}"' if scope else ""
        return f"<{tag}{name}{heads}>{content}</{tag}>"

    top = "".join(cell("th", i, content, "col") for i, content in enumerate(head))
    lines = [cell("th", 0, row[0], "row") + "".join(cell("td", i, content) for i, content in enumerate(row[1:], 1))
             for row in rows]
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    name = "table-" + re.sub(r"\W+", "-", caption.lower())  # the caption stays in place while the table scrolls
    return (f'<p class="caption" id="{name}">{text(caption)}</p><div class="scroll" tabindex="0" role="region" '
            f'aria-labelledby="{name}"><table aria-labelledby="{name}"><thead><tr>{top}</tr></thead>'
            f"<tbody>\n{body}</tbody></table></div>\n")


def figure(picture: str, caption: str) -> str:
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>\n"


def tile(name: str, value: str, below: str) -> str:
    return (f'<li><span class="name">{name}</span><span class="value">{value}</span>'
            f'<span class="from">{below}</span></li>')


def section(anchor: str, title: str, body: str) -> str:
    name = f"{anchor}-title"
    return f'<section id="{anchor}" aria-labelledby="{name}"><h2 id="{name}">{title}</h2>\n{body}</section>\n'


def facts(rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in rows)
    return f'<dl class="facts">{cells}</dl>\n'


def page(title: str, head: str, sections: Sequence[tuple[str, str, str]], foot: str, style: str = "",
         script: str = "") -> str:
    """The document: ``head`` (HTML of the header), sections (anchor, title, HTML), foot. ``style`` comes behind the
    common one; no other script than exactly ``script`` can run."""
    style = (resources.files("salad_ds.measure") / "page.css").read_text(encoding="utf-8") + style
    policy, last = POLICY, ""
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy, last = f"{POLICY}; script-src 'sha256-{digest}'", f"<script>{script}</script>\n"
    links = "".join(f'<li><a href="#{anchor}">{name}</a></li>' for anchor, name, _ in sections)
    body = "".join(section(*one) for one in sections)
    return (f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{text(title)}</title>\n'
            f"<style>\n{style}</style>\n</head>\n<body>\n<a class=\"skip\" href=\"#content\">Skip to the content</a>\n"
            f'<header>{head}<nav aria-label="Sections"><ul>{links}</ul></nav></header>\n'
            f'<main id="content">\n{body}</main>\n<footer><p>{foot}</p></footer>\n{last}</body>\n</html>\n')
