"""The preflight of one process, and what is made of the measured bandwidth. Two hosts: tests/multinode."""

from __future__ import annotations

import os

import pytest

from salad_ds.cli import main
from salad_ds.cluster import network
from salad_ds.cluster.bandwidth import groups_of
from salad_ds.cluster.meeting import KEPT
from salad_ds.cluster.preflight import reduced
from salad_ds.doctor import FAULT, NOTE, OK
from tests.ports import held_port


def test_alone_it_leaves_nothing(tmp_path, monkeypatch, capsys):
    """No launcher, no shards, no teacher store: notes, and exit code 0."""
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    for name, value in (alone | {"MASTER_PORT": str(held_port())}).items():
        monkeypatch.setenv(name, value)
    code = main(["doctor", "--cluster", "salad_ds/recipes/tiny.yaml", f"workdir={tmp_path}/work", "model.llm=an/llm"])
    shown = capsys.readouterr().out
    KEPT.clear()
    assert code == 0, shown
    for told in ("1 rank on 1 host", "speech/natural: not there yet, on any host", "writable",
                 "an/llm is on no host", "one rank: nothing to reduce", "preflight: nothing to mend"):  # fmt: skip
        assert told in shown, shown
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.parametrize(
    ("words", "told"), [(["workdir=x"], "--cluster RECIPE"), (["--cluster", "no.yaml"], "no.yaml")]
)
def test_wrong_usage_is_a_line(capsys, words, told):
    assert main(["doctor", *words]) == 1
    shown = capsys.readouterr().err
    assert told in shown and "Traceback" not in shown


def test_groups_are_measured_within_and_between_hosts():
    assert groups_of({"a": [0]}) == {}
    assert groups_of({"a": [0, 1]}) == {"within the host": [[0, 1]]}
    assert groups_of({"a": [0], "b": [1]}) == {"between hosts": [[0, 1]]}
    assert groups_of({"a": [0, 1], "b": [2, 3]}) == {
        "within hosts": [[0, 1], [2, 3]], "between hosts": [[0, 2]], "all ranks": [[0, 1, 2, 3]]
    }  # fmt: skip


HOSTS = {"a": [0, 1], "b": [2, 3], "c": [4, 5]}


def rates(**of):
    """Of each rank, for the kind ``within hosts``: 1 MiB at the host's GB/s."""
    return [{"within hosts": [{str(1 << 20): of[host] * 1e9}, of[host] > 0, 2]} for host in HOSTS for _ in range(2)]


def test_a_slow_host_and_a_wrong_sum_are_named():
    (fine,) = reduced(rates(a=10, b=9, c=8), HOSTS, "NCCL")
    assert (fine.state, fine.found) == (OK, "within hosts, NCCL, 2 ranks: 1 MiB 8 GB/s")
    (slow,) = reduced(rates(a=10, b=2, c=9), HOSTS, "NCCL")
    assert slow.state == NOTE and slow.found.endswith("1 MiB 2 GB/s; slow: b")
    (wrong,) = reduced(rates(a=10, b=-1, c=9), HOSTS, "NCCL")
    assert wrong.state == FAULT and "wrong sums on b" in wrong.found


def test_gloo_is_led_away_from_the_loopback(monkeypatch):
    """Debian's /etc/hosts gives a host's own name to 127.0.1.1."""
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    for name, value in {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(network, "towards", lambda _: network.Interface("eth7", "10.0.0.2"))

    def chosen() -> str | None:
        network.choose_interface()
        return os.environ.pop("GLOO_SOCKET_IFNAME", None)

    for own, wanted in (("127.0.1.1", "eth7"), ("", "eth7"), ("10.0.0.2", None)):
        monkeypatch.setattr(network, "own_address", lambda own=own: own)
        assert chosen() == wanted, own
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "=lo")  # of which gloo knows nothing; pdsh takes only this one along
    assert chosen() == "lo"
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "^docker0,lo")
    assert chosen() is None
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(network, "own_address", lambda: "127.0.1.1")
    assert chosen() is None, "ranks of one machine need none"


def test_the_way_to_an_address_has_an_interface():
    assert network.towards("127.0.0.1") == network.Interface("lo", "127.0.0.1")
    assert network.towards("no-such-host.invalid") is None and network.owner_of("203.0.113.9") == ""
