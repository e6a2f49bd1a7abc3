"""Connections between hosts and their clocks: real sockets, a clock that is wrong."""

from __future__ import annotations

import functools
import socket
import time

from salad_ds.cluster.links import Listener, probe, probe_all
from salad_ds.cluster.preflight import linked
from salad_ds.doctor import FAULT, NOTE, OK
from tests.ports import held_port

HOSTS = {"a": [0, 1], "b": [2, 3], "c": [4, 5]}


def test_a_wrong_clock_is_measured():
    for wrong in (0.0, 7.5, -90.0):
        with Listener(lambda wrong=wrong: time.time() + wrong) as listener:
            link = probe("127.0.0.1", listener.port, patience=60)
        assert not link.fault and abs(link.offset - wrong) <= link.round_trip / 2 + 1e-3
        assert 0 < link.round_trip < 5


def test_a_closed_port_and_a_silent_one(monkeypatch):
    assert probe("127.0.0.1", held_port()).fault == "connection refused"
    assert probe("no-such-host.invalid", 9).fault == "there is no host of that name"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert probe("127.0.0.1", silent.getsockname()[1], patience=0.2).fault == "no answer"
    monkeypatch.setattr("salad_ds.cluster.links.probe", functools.partial(probe, patience=60))
    with Listener() as first, Listener() as second:
        found = probe_all({"x": ("127.0.0.1", first.port), "y": ("127.0.0.1", second.port)})
    assert list(found) == ["x", "y"] and not any(link.fault for link in found.values()) and probe_all({}) == {}


def said(**changes):
    """Of each rank: what the first of its host found of the other hosts."""
    fine = {"fault": "", "round_trip": 0.0002, "offset": 0.001}
    links = {here: {there: dict(fine) for there in HOSTS if there != here} for here in HOSTS}
    for pair, change in changes.items():
        links[pair[0]][pair[1]] |= change
    return [links[host] if rank == ranks[0] else {} for host, ranks in HOSTS.items() for rank in ranks]


def test_the_table_names_pairs_and_clocks():
    fine, clocks = linked(said(), HOSTS)
    assert fine.state == clocks.state == OK
    assert clocks.found == "against a: b +1.0 ms ± 0.1, c +1.0 ms ± 0.1"
    broken, _ = linked(said(bc={"fault": "no answer"}), HOSTS)
    assert broken.state == FAULT and broken.found == "b → c: no answer" and "TCP ports" in broken.mend
    _, late = linked(said(ac={"offset": -3.0}), HOSTS)
    assert late.state == NOTE and late.found == "against a: c -3000.0 ms ± 0.1" and "chrony" in late.mend
    _, far = linked(said(ab={"offset": 400.0}), HOSTS)
    assert far.state == FAULT
    _, far_away = linked(said(ab={"offset": 1.5, "round_trip": 2.0}), HOSTS)
    assert far_away.state == OK, "the round trip allows for it"
    assert not list(linked([{}], {"a": [0]}))
