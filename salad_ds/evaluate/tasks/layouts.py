"""The published shapes of a benchmark's records, and how files of one of them become items.

A benchmark is published in several shapes (its authors' JSON lines, a hub's Parquet). Which one a file has is told by
its columns. A record that is no item costs itself: it is counted by reason and named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from salad_ds.data.rejections import Rejections, one_line, too_many
from salad_ds.errors import DataError
from salad_ds.evaluate.tasks.items import Item, Unusable, usable
from salad_ds.evaluate.tasks.records import bare, columns_of, read_records, shown

Record = dict[str, Any]
Reader = Callable[[Path, Sequence[str]], Iterator[tuple[int, Record | None]]]


@dataclass(frozen=True)
class Layout:
    """One shape. ``needs``: the columns by which it is known; ``also``: those that are read where they are.

    ``parse(record, where)`` → Item, or raises Unusable; ``where`` is ``(file below the source, number from 1)``. Where
    it gives no ``id``, the file's name and the number are one. ``read`` for files that are not simply records;
    ``columns`` for those without a head.
    """

    name: str
    needs: tuple[str, ...]
    parse: Callable[[Record, tuple[Path, int]], Item]
    also: tuple[str, ...] = ()
    read: Reader = read_records
    columns: Callable[[Path], list[str]] = columns_of


@dataclass
class Found:
    """The items of some files, in order, and what was left out: the reason, then the record."""

    items: list[Item] = field(default_factory=list)
    left_out: Rejections = field(default_factory=Rejections)


def layout_of(path: Path, layouts: Sequence[Layout]) -> Layout | None:
    """The first shape whose columns ``path`` has."""
    for layout in layouts:
        if set(layout.needs) <= set(layout.columns(path)):
            return layout
    return None


def id_of(below: Path, number: int) -> str:
    """For a record that has none: where it stands. What a hub adds to the name of an only file is left out."""
    return f"{below.with_name(bare(below)).as_posix().replace('/', '-').replace('-00000-of-00001', '')}-{number}"


def read_items(what: str, root: Path, files: Sequence[Path], layouts: Sequence[Layout], max_bad_share: float) -> Found:
    """The items of ``files``, which lie below ``root``.

    Raises DataError, naming what was found there, for a file that is not the benchmark at all, and when more than
    ``max_bad_share`` of the records are no items.
    """
    found, seen = Found(), set[str]()
    for path in files:
        layout = layout_of(path, layouts)
        if layout is None:
            wanted = " or ".join(f"{', '.join(layout.needs)} ({layout.name})" for layout in layouts)
            raise DataError(f"{path} is not {what}: it has {', '.join(layouts[0].columns(path)[:12]) or 'no records'}",
                            f"give files with {wanted}")  # fmt: skip
        below = path.relative_to(root) if root.is_dir() else Path(path.name)
        for number, record in layout.read(path, [*layout.needs, *layout.also]):
            where = f"{below}:{number}"
            if record is None:
                found.left_out.add("does not parse", where)
                continue
            try:
                item = usable(layout.parse(record, (below, number)))
            except Unusable as error:
                found.left_out.add(error.reason, where, error.detail)
                continue
            except (TypeError, ValueError, LookupError, AttributeError):  # of another shape than its neighbours
                found.left_out.add("not of its file's shape", where, shown(record))
                continue
            if not item.id:
                item = replace(item, id=id_of(below, number))
            if item.id in seen:
                found.left_out.add("duplicate id", item.id, where)
                continue
            seen.add(item.id)
            found.items.append(item)
    bad = found.left_out.count
    if not found.items or too_many(bad, bad + len(found.items), max_bad_share):
        table = one_line(found.left_out.table()) or "no records"
        raise DataError(f"{what}: {bad} of {bad + len(found.items)} records in {root} are no items: {table}",
                        "mend the files, or raise data.max_bad_share")  # fmt: skip
    return found
