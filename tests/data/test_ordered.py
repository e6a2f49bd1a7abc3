"""Work over processes: the order of the items, whatever happens to the processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from salad_ds.data import ordered
from salad_ds.data.ordered import AHEAD, in_order


def square(number):
    time.sleep(0.002 * (number % 7 == 0))  # some take longer than those behind them
    return number * number


def deadly(number):
    if number in (5, 17):
        os._exit(9)
    return number


def faulty(number):
    return 1 // number


def never(_):
    return False


@pytest.mark.parametrize("workers", [1, 2, 0])
def test_results_come_in_order(workers):
    items = range(ordered.FEW + 20)
    rows = list(in_order(square, items, workers, 2, ready=lambda number: number % 3 == 0))
    assert rows == [(number, None if number % 3 == 0 else number * number) for number in items]


def test_a_process_that_dies_costs_its_item():
    assert list(in_order(deadly, range(40), 2, 2, never)) == [
        (number, None if number in (5, 17) else number) for number in range(40)]


def test_an_error_of_the_work_is_an_error():
    with pytest.raises(ZeroDivisionError):
        list(in_order(faulty, range(3), 2, 2, never))


def test_items_are_read_only_as_far_ahead_as_the_workers_need():
    read = []
    items = (read.append(number) or number for number in range(10_000))
    results = in_order(square, items, 2, 2, never)
    next(results)
    assert len(read) <= AHEAD * 2 + 1
    results.close()


KILLED = """
import os, signal
from tests.data.test_ordered import never, square
from salad_ds.data.ordered import in_order
if __name__ == "__main__":
    results = in_order(square, range(1000), 2, 2, never)
    next(results)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_processes_end_with_the_one_that_started_them(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    root = Path(__file__).parents[2]
    mark = {"SALAD_DS_TEST_MARK": str(tmp_path)}
    done = subprocess.run([sys.executable, str(script)], env={**os.environ, **mark, "PYTHONPATH": str(root)})
    assert done.returncode == -signal.SIGKILL
    for _ in range(900):
        if not [pid for pid in os.listdir("/proc") if pid.isdigit() and mine(pid, str(tmp_path))]:
            return
        time.sleep(0.1)
    raise AssertionError("its workers are still there")


def mine(pid, mark):
    try:
        return mark.encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
