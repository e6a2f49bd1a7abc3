"""Ranks that do not come, a port that is taken, a collective that never ends: each is an error in a line."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from salad_ds.cluster.meeting import KEPT, Meeting
from salad_ds.errors import SaladError
from tests.ports import held_port


@pytest.fixture
def place(monkeypatch):
    """Set where ranks meet, and which one this process is."""

    def put(rank: int, size: int, address: str = "127.0.0.1", port: int = 0) -> None:
        told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": address,
                "MASTER_PORT": port or held_port()}  # fmt: skip
        for name, value in told.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)

    yield put
    KEPT.clear()


def test_a_rank_that_does_not_come_is_numbered(place):
    place(0, 3)
    with pytest.raises(SaladError, match="nothing was heard of ranks 1, 2 within 5 s"), Meeting(5.0):
        pass


@pytest.mark.parametrize(
    ("address", "told", "mend"),
    [
        ("127.0.0.1", "connection refused", "rank 0 does not run"),
        ("no-such-host.invalid", "there is no host of that name", "every host resolves"),
    ],
)
def test_rank_0_out_of_reach(place, address, told, mend):
    place(1, 2, address)
    with pytest.raises(SaladError, match=rf"rank 1 on .* has not reached rank 0 at {address}:.*{told}") as error:
        Meeting(0.5).__enter__()
    assert mend in error.value.mend


def test_a_port_that_is_taken(place):
    with socket.create_server(("", 0)) as taken:
        place(0, 1, port=taken.getsockname()[1])
        with pytest.raises(SaladError, match="rank 0 on .* cannot listen at 127.0.0.1") as error, Meeting(1.0):
            pass
    assert "--master_port" in error.value.mend


def test_words_go_to_rank_0_and_back(place):
    place(0, 1)
    with Meeting(60.0) as meeting:
        meeting.say("facts", {"a": [1, "ü"]})
        assert meeting.all("facts") == [{"a": [1, "ü"]}]
        meeting.tell("plan", {"x": 1.5})
        assert meeting.hear("plan") == {"x": 1.5}
        meeting.patience = 0.1
        with pytest.raises(SaladError, match="no answer from rank 0"):
            meeting.hear("nothing")


SLEEPER = """
import time
from salad_ds.cluster.deadline import Deadline
with Deadline(0.3, 3, "node7"):
    time.sleep(60)
"""


def test_a_collective_that_does_not_end_ends_the_process():
    done = subprocess.run([sys.executable, "-c", SLEEPER], capture_output=True, text=True, timeout=120,
                          env=os.environ | {"GLOO_SOCKET_IFNAME": "eth9"}, check=False)  # fmt: skip
    assert done.returncode == 1
    assert "rank 3 on node7: the process group or its all-reduce has not ended within 0 s" in done.stderr
    assert "GLOO_SOCKET_IFNAME=eth9" in done.stderr and "--interface" in done.stderr
