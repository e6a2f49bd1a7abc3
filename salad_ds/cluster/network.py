"""Which of a host's network interfaces the ranks talk through."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

import psutil

from salad_ds.launched import several_hosts


@dataclass(frozen=True)
class Interface:
    name: str
    address: str


def towards(address: str) -> Interface | None:
    """The interface that packets to ``address`` leave by (on the host that has it: the one with that address); None
    where the name or the way is unknown."""
    try:
        family, _, _, _, where = socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(where)  # sends nothing
            ours = str(probe.getsockname()[0])
    except OSError:
        return None
    return Interface(owner_of(ours), ours)


def owner_of(address: str) -> str:
    """Name of the interface with this address; "" where none has it."""
    for name, entries in psutil.net_if_addrs().items():
        if any(entry.address.split("%")[0] == address for entry in entries):
            return name
    return ""


def own_address() -> str:
    """What this host's own name stands for; "" where it stands for nothing. Gloo listens there."""
    try:
        return str(socket.getaddrinfo(socket.gethostname(), None, proto=socket.IPPROTO_TCP)[0][4][0])
    except OSError:
        return ""


def is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def choose_interface() -> None:
    """Tell gloo which interface to take, where ranks run on several hosts and nobody has told it (GLOO_SOCKET_IFNAME).

    It is NCCL's (NCCL_SOCKET_IFNAME), where that is said. Else gloo listens at the address of the host's name, and
    Debian's /etc/hosts has 127.0.1.1 there, so that ranks of other hosts would call themselves: then it is the one that
    leads to MASTER_ADDR. NCCL looks at interfaces itself, and takes no loopback.
    """
    if "GLOO_SOCKET_IFNAME" in os.environ or not several_hosts():
        return
    named = os.environ.get("NCCL_SOCKET_IFNAME", "")
    if named and not named.startswith("^"):
        wanted = named.split(",")[0].split(":")[0]
        there = [name for _, name in socket.if_nameindex()]
        fits = [name for name in there if name == wanted.lstrip("=")] or \
            [name for name in there if not wanted.startswith("=") and name.startswith(wanted)]
        if fits:
            os.environ["GLOO_SOCKET_IFNAME"] = fits[0]
            return
    own = own_address()
    if own and not is_loopback(own):
        return
    found = towards(os.environ.get("MASTER_ADDR", ""))
    if found and found.name and not is_loopback(found.address):
        os.environ["GLOO_SOCKET_IFNAME"] = found.name
