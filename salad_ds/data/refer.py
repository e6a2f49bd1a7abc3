"""Tars that somebody else wrote, read in place: a manifest and indexes are made, the tars are not touched.

Only headers and JSON are read, the sound between them is skipped; so a published corpus of a hundred thousand hours is
ready after reading a hundredth of it. A tar's index is written as soon as the tar has been walked through: a run that
was killed goes on with the next one, and parts of the work (parts.py) can be done anywhere.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from salad_ds.config import StorageConfig
from salad_ds.data import sources, storage
from salad_ds.data.ordered import in_order
from salad_ds.data.parts import WHOLE, Part, check_share, merge
from salad_ds.data.rejections import FEW, Rejections, merge_tables, too_many
from salad_ds.data.samples import SCHEMA
from salad_ds.data.shard_index import dump, index_path, scan
from salad_ds.data.shard_ref import ShardRef
from salad_ds.data.storage import Missing, Place
from salad_ds.environment import cores
from salad_ds.errors import DataError
from salad_ds.files import digest_of
from salad_ds.progress import Progress

LeaveOut = Callable[[dict[str, Any]], str]
"""A sample's JSON → why it is not wanted, or ""."""
MANY = 16
"""Tars that are worth several processes."""
LOST = "tar cannot be read"


def refer(directory: str | os.PathLike[str], tars: Iterable[str | os.PathLike[str]] | Mapping[str, str], source: str,
          made_from: dict[str, Any] | None = None, leave_out: LeaveOut | None = None, digest: str = "edges",
          part: Part = WHOLE, root: str | os.PathLike[str] = "", workers: int = 0, max_bad_share: float = 0.05,
          settings: StorageConfig | None = None, quiet: bool = False) -> dict[str, Any]:
    """Write into ``directory`` (a path or a URL) a manifest of ``tars``, and the index of each; returns the manifest,
    or a part's while others are missing. What is finished is left alone.

    ``tars``: paths and URLs, or such by the shard's name. A shard is called as its tar lies below ``root`` (default:
    what all have in common), ``/`` written as ``__``. ``leave_out``, a function of a module, decides from a sample's
    JSON; ``made_from`` must tell its settings. ``digest``: ``edges`` (size, first and last MiB) or ``sha256``, which
    reads all of every tar. A tar that cannot be read is counted like a sample and costs what is in it.

    Raises DataError for names that are not unique, for tars of speech beside tars of text, for more than
    ``max_bad_share`` bad samples or unreadable tars, for none at all, and where ``directory`` holds something else.
    """
    if digest not in ("edges", "sha256"):
        raise DataError(f"digest is {digest!r}", "use edges or sha256")
    settings, place = storage.current(settings), storage.place_of(directory)
    made_from = {"digest": digest, **(made_from or {})}
    refs = name_all(place, tars, root)
    done = finished(place, made_from, part, max_bad_share, settings)
    if done is not None:
        return done
    mine = list(part.take(refs))
    work = functools.partial(walk_through, made_from=digest_of(made_from), leave_out=leave_out, digest=digest,
                             settings=settings)
    found: list[Found] = []
    with Progress(f"index {source}", len(mine), "tars", quiet=quiet) as progress:
        default = cores() if len(mine) >= MANY else 1
        for ref, result in in_order(work, mine, workers or default, default, ready=lambda _: False):
            found.append(result or unreadable(ref, "its reader died"))
            progress.update(1, f"{sum(one.row['samples'] for one in found[-1:] if one.row)} samples in {ref.name}")
    unread = [one.rejected[LOST]["examples"][0] for one in found if one.row is None]
    # Each counts as one sample, but may hold thousands. A part may have no other.
    if too_many(len(unread), len(found), max_bad_share) and (part.whole or len(unread) >= FEW):
        raise DataError(f"{len(unread)} of {len(found)} tars of {source} cannot be read: {'; '.join(unread[:5])}",
                        "mend or remove them; the same command goes on where it stopped")
    manifest = assemble(found, source, made_from, place)
    check_share(source, manifest["rejected"], manifest["left_out"], manifest["samples"], max_bad_share, part.whole)
    if not part.whole:
        manifest["part"] = [part.number, part.of]
    body = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    storage.write_bytes(storage.join(place, part.manifest_name), body.encode(), settings)
    path = storage.local(place)
    return manifest if part.whole or path is None else merge(path, part.of, max_bad_share) or manifest


def finished(place: Place, made_from: dict[str, Any], part: Part, max_bad_share: float,
             settings: StorageConfig) -> dict[str, Any] | None:
    """The manifest that is there already, the part's if others are missing. Raises DataError for one of something
    else."""
    path = storage.local(place)
    if path is None and not part.whole:
        raise DataError(f"{storage.shown(place)}: parts need a file system that all of them see", "index it in one go")
    for name in dict.fromkeys(["manifest.json", part.manifest_name]):
        try:
            manifest = json.loads(storage.read_bytes(storage.join(place, name), settings))
        except Missing:
            continue
        except ValueError:
            raise DataError(f"{storage.shown(storage.join(place, name))} is damaged", "delete it") from None
        if digest_of(manifest.get("made_from")) != digest_of(made_from):
            raise DataError(f"{storage.shown(place)} was made from something else ({manifest.get('made_from')} there, "
                            f"{made_from} wanted)", "remove that directory, or choose another one")
        if name == "manifest.json" or path is None:
            return manifest
        return merge(path, part.of, max_bad_share) or manifest
    return None


def name_all(directory: Place, tars: Iterable[str | os.PathLike[str]] | Mapping[str, str],
             root: str | os.PathLike[str] = "") -> list[ShardRef]:
    """A ShardRef for each tar, in the order of their names. Raises DataError for two of one name."""
    if isinstance(tars, Mapping):
        named = {name: storage.place_of(tar) for name, tar in tars.items()}
    else:
        places = [storage.place_of(tar) for tar in tars]
        paths = [str(place if storage.is_url(place) else os.path.abspath(place)) for place in places]
        common = os.path.commonprefix([path.rpartition("/")[0] + "/" for path in paths]).rpartition("/")[0]
        if root:
            common = str(root).rstrip("/") if storage.is_url(str(root)) else os.path.abspath(root)
        named = {}
        for place, path in zip(places, paths, strict=True):
            bare = path.split("?")[0] if storage.is_url(path) else path
            below = bare.removeprefix(f"{common}/") if bare.startswith(f"{common}/") else storage.name_of(place)
            name = below.removesuffix(".tar").replace("/", "__") + ".tar"
            if name in named:
                raise DataError(f"{storage.shown(place)} and {storage.shown(named[name])} would both be called {name}",
                                "give refer the names")
            named[name] = place
    beside = storage.place_of(directory)
    refs = []
    for name, place in sorted(named.items()):
        here = str(place) == str(storage.join(beside, name))
        refs.append(ShardRef(name, beside, "" if here else place if storage.is_url(place) else os.path.abspath(place)))
    return refs


@dataclass
class Found:
    """What a tar holds: its row of the manifest, or None where it cannot be read."""

    row: dict[str, Any] | None
    kinds: set[str] = field(default_factory=set)
    rejected: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, Any] = field(default_factory=dict)


def unreadable(ref: ShardRef, why: str) -> Found:
    rejections = Rejections()
    rejections.add(LOST, ref.name, why)
    return Found(None, rejected=rejections.table())


def walk_through(ref: ShardRef, made_from: str, leave_out: LeaveOut | None, digest: str,
                 settings: StorageConfig) -> Found:
    """Index one tar, unless an earlier run did; in a worker process."""
    try:
        source = sources.open_source(ref.place, settings)
        size, edges = source.size(), sources.edges_of(source)
        index = earlier(ref, made_from, edges, settings)
        if index is None:
            checksum = edges if digest == "edges" else sources.sha256_of(source)
            rejections, not_wanted = Rejections(), Rejections()
            index = scan(ref, checksum, rejections, settings, leave_out, not_wanted, source)
            samples = index.pop("samples")
            if any(one["audio"] for one in samples):
                for one in samples:
                    if not one["audio"]:
                        rejections.add("no sound", one["key"])
                samples = [one for one in samples if one["audio"]]
            index |= {"rejected": rejections.table(), "left_out": not_wanted.table(), "edges": edges,
                      "made_from": made_from, "samples": samples}
            storage.write_bytes(index_path(ref), dump(index), settings)
    except DataError as error:
        return unreadable(ref, error.what)
    rows = index["samples"]
    row = {"name": ref.name, "samples": len(rows), "seconds": round(sum(one["duration"] for one in rows), 3),
           "bytes": size, "sha256": index["shard_sha256"]}
    if ref.url:
        row["url"] = str(ref.url)
    return Found(row, {"speech" if one["audio"] else "text" for one in rows}, index["rejected"], index["left_out"])


def earlier(ref: ShardRef, made_from: str, edges: str, settings: StorageConfig) -> dict[str, Any] | None:
    """The index that an earlier run made of this tar with these settings."""
    try:
        index = json.loads(storage.read_bytes(index_path(ref), settings))
    except (Missing, ValueError):
        return None
    wanted = {"schema": SCHEMA, "edges": edges, "made_from": made_from}
    return index if isinstance(index, dict) and wanted.items() <= index.items() else None


def assemble(found: list[Found], source: str, made_from: dict[str, Any], place: Place) -> dict[str, Any]:
    kinds = sorted(set().union(*(one.kinds for one in found)))
    if len(kinds) > 1:
        raise DataError(f"{storage.shown(place)} holds {' and '.join(kinds)}", "give speech and text a directory each")
    rows = [one.row for one in found if one.row is not None and one.row["samples"]]
    return {"schema": SCHEMA, "kind": kinds[0] if kinds else None, "source": source, "shards": rows,
            "samples": sum(row["samples"] for row in rows), "seconds": round(sum(row["seconds"] for row in rows), 3),
            "rejected": merge_tables([one.rejected for one in found]),
            "left_out": merge_tables([one.left_out for one in found]), "made_from": made_from}
