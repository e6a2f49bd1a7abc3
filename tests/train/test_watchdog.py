"""Real ranks, one of which is killed, stopped, hangs or fails: every other one ends soon, and says why."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.ports import held_port
from tests.train.launch import REPOSITORY, environment

RANKS = 3


def outcome(case: str, silence: float, hang: float, alive: tuple[int, ...]) -> dict[int, tuple[int, str]]:
    """{rank: (exit code, what it said)} of the ranks ``alive``. They have to end far sooner than the half hour after
    which a collective gives up."""
    settings = environment() | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(held_port()), "WORLD_SIZE": str(RANKS)}
    jobs = [
        subprocess.Popen([sys.executable, "-m", "tests.train.watched", case, str(silence), str(hang)],
                         env=settings | {"RANK": str(rank)}, cwd=REPOSITORY, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True)
        for rank in range(RANKS)
    ]  # fmt: skip
    try:
        said = {rank: jobs[rank].communicate(timeout=240)[0] for rank in alive}
        return {rank: (jobs[rank].returncode, said[rank]) for rank in alive}
    finally:
        for job in jobs:
            job.kill()


def test_a_run_without_faults_is_left_alone():
    ends = outcome("nothing", 60, 60, (0, 1, 2))
    assert all(code == 0 and "is through" in said and "watchdog" not in said for code, said in ends.values()), ends


@pytest.mark.parametrize(
    ("case", "alive", "told"),
    [
        ("silent", (0, 2), "rank 1 on"),  # SIGSTOP: its sockets stay open, and no collective would ever fail
        ("silent-first", (1, 2), "rank 0"),  # the store is silent with it
        ("hang", (0, 1, 2), "no step has ended for 3 s"),
    ],
)
def test_a_rank_that_is_gone_ends_the_others_with_their_stacks(case, alive, told):
    # where a rank falls silent, one that a busy machine holds up for some seconds must not be taken for it
    silence, hang = (60, 3) if case == "hang" else (8, 0)
    ends = outcome(case, silence, hang, alive)
    for rank, (code, said) in ends.items():
        assert code == 1 and f"watchdog of rank {rank}" in said and told in said, (rank, said)
        assert "most recent call first" in said and "all_reduce" in said or rank == 1, said
    if case == "hang":  # the one that hangs shows where
        assert "wait_for_a_file_system_that_never_answers" in ends[1][1]


def test_a_killed_rank_ends_the_others():
    ends = outcome("dead", 3, 0, (0, 2))
    assert all(code != 0 for code, _ in ends.values()), ends


def test_ranks_that_fail_beside_a_silent_first_one_end_all_the_same():
    """The store, which they want to tell of it, never answers. They end before the silence could be told."""
    ends = outcome("silent-first-and-fails", 600, 0, (1, 2))
    assert all(code == 1 and "the defect itself" in said for code, said in ends.values()), ends


def test_a_rank_that_fails_tells_the_others_of_what():
    """They see a closed connection; the reason stands last on each of them."""
    ends = outcome("fails", 60, 0, (0, 1, 2))
    assert ends[1][0] == 1 and "ZeroDivisionError: the defect itself" in ends[1][1]
    for rank in (0, 2):
        code, said = ends[rank]
        assert code != 0 and "rank 1 on" in said and "the defect itself" in said, (rank, said)
