"""Work spread over processes, its results in the order of the items, however many processes there are.

At most a few items per process are under way, so that memory stays small. An item whose process dies (a C library that
crashes on one recording) costs that item: what was under way is tried again, one at a time.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Generic, TypeVar

from salad_ds.pool import new_pool, one_at_a_time, submit

Item = TypeVar("Item")
Result = TypeVar("Result")
AHEAD = 8
"""Items under way per process."""
FEW = 48
"""Fewer items are not worth the start of processes (a third of a second each), unless their number is asked for."""


def in_order(work: Callable[[Item], Result], items: Iterable[Item], workers: int, default: int,
             ready: Callable[[Item], bool]) -> Iterator[tuple[Item, Result | None]]:
    """Yield ``(item, work(item))`` in order; None for an item that is ``ready`` (not sent anywhere) or was lost.

    ``workers``: processes; 1 works here, 0 takes ``default`` of them where there is enough to do. ``work`` is a
    function of a module. ``items`` is read as far ahead as the workers need.
    """
    items = iter(items)
    if workers == 0:
        head = list(itertools.islice(items, FEW))
        workers = default if len(head) == FEW else 1
        items = itertools.chain(head, items)
    if workers <= 1:
        for item in items:
            yield item, None if ready(item) else work(item)
        return
    with Pool(work, workers) as pool:
        under_way: deque[tuple[Item, Future[Result | None] | None]] = deque()
        for item in items:
            under_way.append((item, None if ready(item) else pool.submit(item)))
            while under_way and (len(under_way) > AHEAD * workers or is_done(under_way[0][1])):
                yield pool.take(under_way)
        while under_way:
            yield pool.take(under_way)


def is_done(future: Future[Result | None] | None) -> bool:
    return future is None or future.done()


class Pool(Generic[Item, Result]):
    """Processes that are started again when one of them has died."""

    def __init__(self, work: Callable[[Item], Result], workers: int) -> None:
        self.work, self.workers = work, workers
        self.pool: ProcessPoolExecutor = new_pool(workers)

    def __enter__(self) -> Pool[Item, Result]:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)

    def submit(self, item: Item) -> Future[Result | None]:
        return submit(self.pool, self.work, item)

    def take(self, under_way: deque[tuple[Item, Future[Result | None] | None]]) -> tuple[Item, Result | None]:
        """The first one, waited for."""
        item, future = under_way[0]
        if future is not None and isinstance(future.exception(), BrokenProcessPool):
            self.try_again(under_way)
            item, future = under_way[0]
        under_way.popleft()
        return item, None if future is None else future.result()

    def try_again(self, under_way: deque[tuple[Item, Future[Result | None] | None]]) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
        lost = [place for place, (_, future) in enumerate(under_way)
                if future is not None and (future.cancelled() or not future.done() or future.exception() is not None)]
        again = one_at_a_time(self.work, [under_way[place][0] for place in lost])
        for place, (item, result) in zip(lost, again, strict=True):
            done: Future[Result | None] = Future()
            done.set_result(result)
            under_way[place] = (item, done)
        self.pool = new_pool(self.workers)
