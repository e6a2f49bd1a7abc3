"""Work spread over processes, where one item may be bad enough to kill its process.

A C library that crashes on one recording must cost that recording, not the run: items that were under way when a
process died are tried again one at a time, and the one that kills its process again is reported as lost.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

Task = TypeVar("Task")
Result = TypeVar("Result")
PER_WORKER = 4  # items under way per process: keeps them busy, bounds the memory

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def begin_worker() -> None:
    """In a worker, before numpy and torch load: as many processes as cores leave one thread each, and a worker whose
    parent is killed ends too (it would wait for work for ever)."""
    for name in THREADS:
        os.environ[name] = "1"
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=end_after, args=(parent,), name="parent", daemon=True).start()


def end_after(process: BaseProcess) -> None:
    process.join()
    os._exit(1)


def new_pool(workers: int) -> ProcessPoolExecutor:
    # spawn: a forked child inherits torch's threads in an unknown state
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=begin_worker)


def worker_device() -> torch.device:
    """Of this worker: the rank's GPU under a launcher, else the workers take the GPUs in turn."""
    import torch  # after begin_worker

    if not torch.cuda.is_available():
        return torch.device("cpu")
    place = os.environ.get("LOCAL_RANK") or (multiprocessing.current_process()._identity or (1,))[0] - 1
    return torch.device("cuda", int(place) % torch.cuda.device_count())


def spread(work: Callable[[Task], Result], tasks: Iterable[Task], workers: int) -> Iterator[tuple[Task, Result | None]]:
    """Yield ``(task, work(task))`` as they are done, in any order; None for a task that killed its process.

    ``work`` is a function of a module (it is sent by name). ``tasks`` is read as far ahead as the workers need.
    """
    pool, under_way = new_pool(workers), {}
    todo = iter(tasks)
    try:
        while True:
            for task in todo:
                under_way[submit(pool, work, task)] = task
                if len(under_way) >= workers * PER_WORKER:
                    break
            if not under_way:
                return
            done, _ = wait(under_way, return_when=FIRST_COMPLETED)
            if any(isinstance(future.exception(), BrokenProcessPool) for future in done):
                pool.shutdown(wait=False, cancel_futures=True)
                suspects = []
                for future, task in under_way.items():
                    if future.done() and not future.cancelled() and future.exception() is None:
                        yield task, future.result()
                    else:
                        suspects.append(task)
                yield from one_at_a_time(work, suspects)
                pool, under_way = new_pool(workers), {}
                continue
            for future in done:
                yield under_way.pop(future), future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def submit(pool: ProcessPoolExecutor, work: Callable[[Task], Result], task: Task) -> Future[Result]:
    try:
        return pool.submit(work, task)
    except BrokenProcessPool as error:  # it broke since the last look
        future: Future[Result] = Future()
        future.set_exception(error)
        return future


def one_at_a_time(work: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[Task, Result | None]]:
    pool = new_pool(1)
    try:
        for task in tasks:
            try:
                yield task, pool.submit(work, task).result()
            except BrokenProcessPool:
                pool = new_pool(1)
                yield task, None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
