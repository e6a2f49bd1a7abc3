"""Files wherever they lie: a path of a local or network file system, or a URL that fsspec reads (``s3://``, ``gs://``,
``https://``, …). Places, what they may be, whole small files, and errors that name the place; sources.py has ranges.

Transient errors (a dropped connection, 503, a stale NFS handle) are tried again with growing pauses. A URL may only use
the schemes in ``PLAIN`` and those that the recipe allows by name: a manifest is data, and ``pipe:`` runs a shell.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from salad_ds.config import StorageConfig
from salad_ds.errors import DataError
from salad_ds.files import atomic_path

T = TypeVar("T")
Place = Path | str
"""A path, or a URL as a string."""

PLAIN = ("file", "s3", "gs", "gcs", "az", "abfs", "abfss", "hf", "http", "https", "memory")
"""Schemes that only read bytes. Others (``pipe``, ``ssh``, ``reference``, ``simplecache``, …) run commands, open other
files or log in somewhere: ``storage.allow`` names them."""
URL = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*::)*[A-Za-z][A-Za-z0-9+.-]*://|pipe:")
FOR_GOOD = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG, errno.ELOOP,
            errno.EINVAL)
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0


class Missing(DataError):
    """A file that is not there."""


_default = StorageConfig()
_systems: dict[tuple[int, str], Any] = {}
_lock = threading.Lock()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _systems.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def use(settings: StorageConfig) -> None:
    """Make ``settings`` those of this process, for everybody who gives none."""
    global _default
    _default = settings


def current(settings: StorageConfig | None = None) -> StorageConfig:
    return settings if settings is not None else _default


# ---- places


def is_url(place: Place) -> bool:
    return isinstance(place, str) and URL.match(place) is not None


def local(place: Place) -> Path | None:
    """``place`` as a path of this machine's file systems, or None."""
    if not is_url(place):
        return Path(place)
    return Path(str(place).removeprefix("file://")) if str(place).startswith("file://") else None


def place_of(where: str | os.PathLike[str]) -> Place:
    """A path as Path, a URL as str."""
    path = None if isinstance(where, str) and local(where) is None else local(os.fspath(where))
    return path if path is not None else str(where)


def join(directory: Place, name: str) -> Place:
    path = local(directory)
    return path / name if path is not None else f"{str(directory).rstrip('/')}/{name}"


def name_of(place: Place) -> str:
    """Its last part: ``b.tar`` of ``s3://x/a/b.tar?version=3``."""
    text = str(place)
    return re.split(r"[?#]", text)[0].rsplit("/", 1)[-1] if is_url(text) else Path(text).name


def shown(place: Place) -> str:
    """``place`` for messages and logs: without a password, and without a signature behind ``?``."""
    text = str(place)
    if not is_url(text) or text.startswith("pipe:"):
        return text
    return re.sub(r"//[^/@]*@", "//", text.split("?")[0])


def schemes(url: str) -> list[str]:
    """``simplecache::s3://b/x`` → ``["simplecache", "s3"]``."""
    if url.startswith("pipe:"):
        return ["pipe"]
    return [part.split("://")[0] for part in url.split("::")]


def check_allowed(url: str, settings: StorageConfig | None = None) -> None:
    """Raises DataError for a URL whose scheme is not plain and not in ``storage.allow``."""
    for scheme in schemes(url):
        if scheme not in PLAIN and scheme not in current(settings).allow:
            told = "runs a shell command" if scheme == "pipe" else f"is read through {scheme}"
            raise DataError(f"{shown(url)} {told}, which the recipe does not allow",
                            f"if you trust who wrote this URL, add {scheme} to storage.allow")


# ---- trying again


def persistently(place: Place, settings: StorageConfig, action: Callable[[], T]) -> T:
    """``action()``, tried again while what goes wrong may pass. Raises Missing or DataError naming ``place``."""
    told = ""
    for turn in range(settings.retries + 1):
        if turn:
            time.sleep(min(FIRST_PAUSE * 2 ** (turn - 1), LONGEST_PAUSE) * random.uniform(0.5, 1.0))
        try:
            return action()
        except DataError:
            raise
        except FileNotFoundError:
            raise Missing(f"{shown(place)} is missing", "copy it back, or prepare the corpus again") from None
        except Exception as error:  # every library behind fsspec has errors of its own
            told = reason(error)
            if not transient(error):
                raise DataError(f"{shown(place)} cannot be read ({told})", "look at its address and rights") from None
    tries = f"{settings.retries + 1} tries" if settings.retries else "1 try"
    raise DataError(f"{shown(place)} cannot be read ({told}; {tries})", "look at the network and the storage; the same "
                    "command goes on where it stopped")


def transient(error: Exception) -> bool:
    status = getattr(error, "status", None) or getattr(error, "code", None)  # aiohttp; gcsfs
    if isinstance(status, int) and 100 <= status < 600:
        return status >= 500 or status in (408, 425, 429)
    never = (PermissionError, IsADirectoryError, NotADirectoryError, ImportError, ValueError, TypeError,
             AttributeError, NotImplementedError)
    return not isinstance(error, never) and getattr(error, "errno", None) not in FOR_GOOD


def reason(error: Exception) -> str:
    """One short line, without query strings: signed URLs are secrets."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]*", r"\1", text)[:200]


def filesystem(url: str, settings: StorageConfig) -> tuple[Any, str]:
    """``(fsspec file system, path in it)``; one file system per scheme, host and process, shared by its
    threads."""
    from fsspec.core import get_filesystem_class, url_to_fs  # whoever has local shards only does not pay for it

    check_allowed(url, settings)
    links = schemes(url)
    try:  # a URL may name more than a path, such as a host or an account: those are other file systems
        named = sorted(get_filesystem_class(links[0])._get_kwargs_from_urls(url).items()) if len(links) == 1 else []
        given = sorted((link, settings.options.get(link)) for link in links)
        key = (os.getpid(), "::".join(links) + repr((given, named)))
        with _lock:
            known = _systems.get(key)
        if known is not None and len(links) == 1:
            return known, known._strip_protocol(url)
        options: dict[str, Any] = settings.options if len(links) > 1 else settings.options.get(links[0], {})
        system, path = url_to_fs(url, **options)
    except ImportError as error:
        raise DataError(f"{shown(url)} cannot be read here ({reason(error)})", "install that package") from None
    except (ValueError, TypeError, OSError) as error:
        raise DataError(f"{shown(url)} cannot be opened ({reason(error)})", "look at it and storage.options") from None
    with _lock:
        return _systems.setdefault(key, system), path


def ask_for(system: Any, name: str, settings: StorageConfig, *what: Any, **how: Any) -> Any:
    """One request of a file system, which may take ``storage.timeout`` seconds where it can be stopped."""
    if not getattr(system, "async_impl", False):
        return getattr(system, name)(*what, **how)
    from fsspec.asyn import sync

    return sync(system.loop, getattr(system, f"_{name}"), *what, timeout=settings.timeout, **how)


# ---- whole files


def read_bytes(place: Place, settings: StorageConfig | None = None) -> bytes:
    """A whole (small) file. Raises Missing, DataError."""
    settings, path = current(settings), local(place)
    if path is not None:
        return persistently(place, settings, path.read_bytes)

    def ask() -> bytes:
        system, inside = filesystem(str(place), settings)
        return ask_for(system, "cat_file", settings, inside)

    return persistently(place, settings, ask)


def write_bytes(place: Place, raw: bytes, settings: StorageConfig | None = None) -> None:
    """A whole file; it appears whole: by rename where there are paths, as one object where there are URLs."""
    settings, path = current(settings), local(place)
    if path is not None:
        with atomic_path(path) as part:
            part.write_bytes(raw)
        return

    def put() -> None:
        system, inside = filesystem(str(place), settings)
        ask_for(system, "pipe_file", settings, inside, raw)

    try:
        persistently(place, settings, put)
    except DataError as error:
        raise DataError(error.what.replace("cannot be read", "cannot be written", 1), error.mend) from None


def exists(place: Place, settings: StorageConfig | None = None) -> bool:
    settings, path = current(settings), local(place)
    if path is not None:
        return path.exists()

    def ask() -> bool:
        system, inside = filesystem(str(place), settings)
        return bool(ask_for(system, "exists", settings, inside))

    return persistently(place, settings, ask)


def names_in(directory: Place, settings: StorageConfig | None = None) -> set[str]:
    """Names of the files in ``directory``; none where it does not exist. Object stores answer with one listing."""
    settings, path = current(settings), local(directory)
    if path is not None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return {entry.name for entry in os.scandir(path)}
        return set()

    def ask() -> set[str]:
        system, inside = filesystem(str(directory), settings)
        system.invalidate_cache()
        try:
            return {name_of(str(found).rstrip("/")) for found in ask_for(system, "ls", settings, inside, detail=False)}
        except FileNotFoundError:
            return set()

    return persistently(directory, settings, ask)
