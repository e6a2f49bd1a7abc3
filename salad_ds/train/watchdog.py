"""Finding the rank that is gone, the one that has failed, and the step that never ends.

A collective whose peer has lost power, cable or patience waits for half an hour, or for ever. So a thread of each rank
tells rank 0, every few seconds, that it lives, through a key-value store of torch; rank 0 looks at all of them, the
others at rank 0. Where one has been silent for ``silence`` seconds (a process that was killed or stopped, a host that
is off), or no step has ended for ``hang`` seconds, every rank prints the stacks of all its threads, with the reason
last, and ends; a launcher may start the job again. A rank that fails says of what: what the others then see, a peer
that closed its connection, is not the reason.

At most 2 store operations per rank and beat, and one that reads all ranks on rank 0.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import sys
import threading
import time
import traceback
from datetime import timedelta

import torch.distributed as dist

from salad_ds.errors import Stopped

BEAT = 5.0
VERDICT = "verdict"
FAILED = 1


class Watchdog:
    """A context manager around a stage. ``step_ended``: from the first one on, steps are watched until ``steps_over``;
    loading and export take what they take. Begins and ends together on all ranks.

    ``silence``, ``hang``: seconds; 0 switches that watch off. Does nothing for a single rank without ``hang``.
    """

    def __init__(self, silence: float, hang: float) -> None:
        self.silence, self.hang = silence, hang
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self.last_step: float | None = None
        self.over = threading.Event()
        self.verdict = ""
        self.threads: list[threading.Thread] = []

    def __enter__(self) -> Watchdog:
        if self.silence or self.hang:
            self.store = self.meet()
            self.last_answer = time.monotonic()
            for work in (self.beat, self.look):
                self.threads.append(threading.Thread(target=work, name=f"watchdog {work.__name__}", daemon=True))
                self.threads[-1].start()
        return self

    def step_ended(self) -> None:
        self.last_step = time.monotonic()

    def steps_over(self) -> None:
        self.last_step = None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.over.set()
        if not self.threads:
            return
        for thread in self.threads:
            thread.join(timeout=2 * BEAT)
        if kind is None:
            dist.barrier()  # rank 0 serves the store: it must not leave before the others have stopped asking
        elif error is not None and not isinstance(error, Stopped):
            # A store whose rank is silent never answers, and the beat may hold it: a rank that fails ends all the same.
            telling = threading.Thread(target=self.pass_on, args=(error,), daemon=True)
            telling.start()
            telling.join(timeout=3 * BEAT)

    def pass_on(self, error: BaseException) -> None:
        """Tell the other ranks what this one failed of; if one has failed before, say what of."""
        try:
            if self.store.check([VERDICT]):
                told = self.store.get(VERDICT).decode()
                print(f"salad-ds: rank {self.rank} ends because of this: {told}", file=sys.stderr, flush=True)
                return
            last = "".join(traceback.format_exception(error)[-3:]).strip()
            self.store.set(VERDICT, f"rank {self.rank} on {socket.gethostname()} has failed:\n{last}")
            if self.rank == 0 and self.ranks > 1:
                time.sleep(BEAT + 1)  # the store ends with this process: they have to read it first
        except Exception:
            return  # the store is gone, and rank 0 with it, which says itself why

    def meet(self) -> dist.TCPStore:
        """A store of our own: torch's is busy with its process groups."""
        place: list[tuple[str, int]] = [("", 0)]
        patience = timedelta(seconds=max(self.silence, 60.0))
        if self.rank == 0:
            host = os.environ.get("MASTER_ADDR", "127.0.0.1")
            store = dist.TCPStore(host, 0, None, True, patience, wait_for_workers=False)
            place = [(host, store.port)]
        dist.broadcast_object_list(place, src=0)
        if self.rank:
            store = dist.TCPStore(*place[0], None, False, patience, wait_for_workers=False)
        store.set_timeout(timedelta(seconds=3 * BEAT))
        store.set(f"host {self.rank}", socket.gethostname())
        store.set(f"beat {self.rank}", "0")
        dist.barrier()
        return store

    def beat(self) -> None:
        """A thread: say that this rank lives, and look who else does. A store without an answer holds it for ever."""
        seen = [("", time.monotonic())] * self.ranks  # of each rank: its last beat, and when that was new
        watched = range(self.ranks) if self.rank == 0 else (0,)
        number = 0
        while not self.over.wait(BEAT):
            number += 1
            try:
                self.store.set(f"beat {self.rank}", str(number))
                if self.store.check([VERDICT]):
                    self.verdict = self.verdict or self.store.get(VERDICT).decode()
                beats = self.store.multi_get([f"beat {rank}" for rank in watched])
                self.last_answer = now = time.monotonic()
                for rank, told in zip(watched, beats, strict=True):
                    if told.decode() != seen[rank][0]:
                        seen[rank] = (told.decode(), now)
                    elif self.silence and now - seen[rank][1] > self.silence:
                        host = self.store.get(f"host {rank}").decode()
                        self.find(f"rank {rank} on {host} has not been heard of for {self.silence:.0f} s")
            except Exception:  # rank 0 has ended, or is out of reach: the other thread notices
                continue

    def look(self) -> None:
        """The other thread: it only reads clocks, and ends the process where it has to be."""
        while not self.over.wait(BEAT):
            now = time.monotonic()
            if self.hang and self.last_step is not None and now - self.last_step > self.hang:
                self.find(f"rank {self.rank}: no step has ended for {self.hang:.0f} s")
            if self.silence and now - self.last_answer > self.silence:
                self.verdict = self.verdict or f"rank 0 has not been heard of for {self.silence:.0f} s"
            if self.verdict:
                self.end()

    def find(self, verdict: str) -> None:
        """The first verdict counts: it is what all ranks end with."""
        if not self.verdict:
            self.verdict = verdict
            threading.Thread(target=self.store.set, args=(VERDICT, verdict), daemon=True).start()

    def end(self) -> None:
        if self.over.is_set():
            return
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        print(f"salad-ds: watchdog of rank {self.rank} on {socket.gethostname()} (its stacks are above): "
              f"{self.verdict}\n  mend: the same command goes on from the newest checkpoint",
              file=sys.stderr, flush=True)  # fmt: skip
        # Whoever ends first closes its connections, and the others fail of that before they have shown where they are;
        # the store ends with rank 0.
        time.sleep(2 * BEAT)
        os._exit(FAILED)
