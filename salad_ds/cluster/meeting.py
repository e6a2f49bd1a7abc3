"""How ranks talk before there is a process group: through the key-value store at MASTER_ADDR:MASTER_PORT.

It is the store that torch meets at later: torchrun's where it has one, else rank 0 serves it and torch joins it. Every
wait has an end, and says who is missing.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from datetime import timedelta
from typing import Any

from torch.distributed import PrefixStore, TCPStore

from salad_ds.errors import SaladError
from salad_ds.launched import meet

KEPT: list[TCPStore] = []
"""Stores that this process serves: torch goes on with them."""
SAY = 30.0
"""Seconds between two words about who is missing."""


class Meeting:
    """A context manager on every rank. ``rank``, ``size``, ``patience``: seconds for each wait. Raises SaladError
    naming who or what is not there."""

    def __init__(self, patience: float) -> None:
        meet()
        self.rank, self.size, self.patience = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), patience
        self.address, self.port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self.host = socket.gethostname()
        self.hosts: dict[int, str] = {}
        """On rank 0: of the ranks that have come."""

    def __enter__(self) -> Meeting:
        served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # by torchrun's agent
        limit = timedelta(seconds=self.patience)
        if self.rank == 0 and not served:
            try:
                store = TCPStore(self.address, self.port, None, True, limit, wait_for_workers=False, multi_tenant=True)
            except RuntimeError as error:
                raise SaladError(f"rank 0 on {self.host} cannot listen at {self.address}:{self.port} "
                                 f"({str(error).splitlines()[0][:200]})",
                                 "take another --master_port, or end the job that holds it") from None
            KEPT.append(store)
        else:
            self.find()
            store = TCPStore(self.address, self.port, None, False, limit, wait_for_workers=False)
        again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self.store = PrefixStore(f"preflight-{again}", store)
        self.say("here", self.host)
        if self.rank == 0:
            self.hosts = dict(enumerate(self.all("here")))
        return self

    def find(self) -> None:
        """Wait for somebody to listen where the ranks meet."""
        end = time.monotonic() + self.patience
        while True:
            try:
                socket.create_connection((self.address, self.port), timeout=5).close()
                return
            except OSError as error:
                if time.monotonic() > end:
                    raise SaladError(
                        f"rank {self.rank} on {self.host} has not reached rank 0 at {self.address}:{self.port} within "
                        f"{self.patience:.0f} s: {in_words(error)}", mend_of(error)) from None
            time.sleep(0.2)

    def say(self, name: str, value: Any) -> None:
        """This rank's word about ``name``, for rank 0."""
        self.store.set(f"{name}/{self.rank}", json.dumps(value))
        self.store.add(f"{name}/count", 1)

    def all(self, name: str) -> list[Any]:
        """On rank 0: every rank's word, in the order of ranks."""
        end, spoken = time.monotonic() + self.patience, time.monotonic()
        while self.store.add(f"{name}/count", 0) < self.size:
            now = time.monotonic()
            if now > end:
                raise SaladError(f"{self.missing(name)} within {self.patience:.0f} s",
                                 "look at what they printed last; do their hosts reach "
                                 f"{self.address}:{self.port}, and did the launcher start them?")
            if now - spoken > SAY:
                spoken = now
                print(f"preflight: {self.missing(name)} yet", file=sys.stderr, flush=True)
            time.sleep(0.02)
        raw: list[bytes] = self.store.multi_get([f"{name}/{rank}" for rank in range(self.size)])
        return [json.loads(value) for value in raw]

    def missing(self, name: str) -> str:
        absent = [rank for rank in range(self.size) if not self.store.check([f"{name}/{rank}"])]
        named = [f"{rank} on {self.hosts[rank]}" if rank in self.hosts else str(rank) for rank in absent[:8]]
        return (f"nothing was heard of rank{'s' if len(absent) > 1 else ''} {', '.join(named)}"
                + (f" and {len(absent) - 8} more" if len(absent) > 8 else ""))

    def tell(self, name: str, value: Any) -> None:
        """On rank 0: a word for all."""
        self.store.set(name, json.dumps(value))

    def hear(self, name: str, times: float = 3.0) -> Any:
        """Rank 0's word; it may itself have waited for others, ``times`` in turn."""
        try:
            self.store.wait([name], timedelta(seconds=self.patience * times))
            return json.loads(self.store.get(name))
        except RuntimeError:
            raise SaladError(f"rank {self.rank} on {self.host} has no answer from rank 0 at {self.address}:{self.port}",
                             "see what rank 0 printed last") from None

    def part(self) -> None:
        """Rank 0, which serves the store, leaves last."""
        try:
            self.store.add("gone", 1)
            end = time.monotonic() + min(self.patience, 20.0)
            while self.rank == 0 and self.store.add("gone", 0) < self.size and time.monotonic() < end:
                time.sleep(0.02)
        except RuntimeError:
            return  # it has left

    def __exit__(self, *_: object) -> None:
        self.part()


def in_words(error: OSError) -> str:
    """Why a connection was not made."""
    if isinstance(error, socket.gaierror):
        return "there is no host of that name"
    if isinstance(error, TimeoutError):
        return "no answer"
    return (error.strerror or str(error)).lower()


def mend_of(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "give --master_addr as a name that every host resolves, or as an address"
    if isinstance(error, ConnectionRefusedError):
        return "rank 0 does not run, or not there: look at its last lines, and at --master_addr"
    return "open this port between the hosts (a firewall?), or give --master_addr as an address that all reach"
