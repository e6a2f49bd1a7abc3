"""A lane: one row of every global batch, and its own walk over the sources.

Lane l of L takes the samples l, l + L, l + 2L, … of each source's order; nothing it does depends on the other lanes, so
lanes may be dealt to any number of ranks and workers. Whose turn it is among the sources, and which of the waiting
samples fill a row, depends on the samples' sizes: the few integers that remember it are the lane's state.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

from salad_ds.data.collate import Sequence
from salad_ds.data.order import SourceOrder, Turns, stable_seed
from salad_ds.data.packing import fullest
from salad_ds.data.plan import Plan, Planner, Skipped
from salad_ds.errors import DataError, RecipeError

WINDOW = 16
"""Samples that wait in a lane: enough that some of them fill a row of 2048 positions to 98 % (documents of about a
thousand tokens, the hardest) or 99.9 % (utterances)."""
BARREN = 1000
"""Unusable samples in a row after which a lane gives up."""


@dataclass
class LaneState:
    """Where a lane stands behind a row. ``taken[k]``: samples it has taken from source k; ``spent[k]``: positions that
    source k has been charged; ``waiting``: (source, number of the sample in this lane) of those that did not fit yet,
    in order; ``seen``, ``lost``: samples so far, and those of them that could not be used. ``skipped``: the latter of
    this row, as (reason, name); not kept. All empty: at the beginning."""

    taken: list[int] = field(default_factory=list)
    spent: list[int] = field(default_factory=list)
    waiting: list[tuple[int, int]] = field(default_factory=list)
    seen: int = 0
    lost: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list, compare=False)

    def as_json(self) -> list[Any]:
        return [self.taken, self.spent, [list(pair) for pair in self.waiting], self.seen, self.lost]

    @classmethod
    def from_json(cls, value: list[Any]) -> LaneState:
        taken, spent, waiting, seen, lost = value
        pairs = [(int(source), int(number)) for source, number in waiting]
        return cls([int(n) for n in taken], [int(n) for n in spent], pairs, int(seen), int(lost))


@dataclass
class Row:
    """What fills one row; the lane's state behind it, but for the samples ``seen`` and ``lost`` before this row; and
    what this row cost: samples ``seen``, and the ``skipped`` among them as (reason, name). ``began``: the lane's state
    before it, likewise."""

    sequences: list[Sequence]
    state: LaneState
    seen: int
    skipped: list[tuple[str, str]]
    began: LaneState

    def behind(self, before: LaneState) -> LaneState:
        """The whole state, when the lane's state was ``before``."""
        seen, lost = before.seen + self.seen, before.lost + len(self.skipped)
        return replace(self.state, seen=seen, lost=lost, skipped=self.skipped)


class Journal:
    """Stands in for a planner's ``skipped``: keeps what is told until a row takes it along."""

    def __init__(self) -> None:
        self.seen = 0
        self.skipped: list[tuple[str, str]] = []

    def saw(self) -> None:
        self.seen += 1

    def skip(self, reason: str, name: str) -> None:
        self.skipped.append((reason, name))

    def drain(self) -> tuple[int, list[tuple[str, str]]]:
        told = self.seen, self.skipped
        self.seen, self.skipped = 0, []
        return told


class Course:
    """What all lanes of a stage have in common: the order of each source, and how the sources share the positions.

    Raises RecipeError for weights that cannot be kept.
    """

    def __init__(self, planner: Planner, lanes: int, seed: int) -> None:
        weights = [source.weight for source in planner.sources]
        sizes = [[len(shards.samples_in(n)) for n in range(len(shards.shards))] for shards in planner.shards]
        names = {source.path: source.weight for source in planner.sources}
        empty = [s.path for s, n, w in zip(planner.sources, sizes, weights, strict=True) if w > 0 and not sum(n)]
        if empty:
            raise RecipeError(f"{', '.join(empty)} holds no samples", "prepare it, or give it the weight 0")
        try:
            self.turns = Turns(weights)
        except ValueError as error:
            raise RecipeError(f"{error}: {names}", "change the weights of this stage's sources") from None
        group = planner.data.shuffle_shards
        self.orders = [
            SourceOrder(counts, stable_seed(seed, "order", k), group) if weights[k] > 0 else None
            for k, counts in enumerate(sizes)
        ]
        self.lanes, self.seed, self.context = lanes, seed, planner.data.context

    def start(self, lane: int) -> LaneState:
        """Where a lane begins."""
        return LaneState([0] * len(self.orders), self.turns.start(self.context, self.seed, lane))

    def sample(self, source: int, lane: int, number: int) -> tuple[int, int]:
        """(epoch, index in the source) of the lane's ``number``-th sample of ``source``."""
        order = self.orders[source]
        assert order is not None
        return order[lane + self.lanes * number]


class Lane:
    """One row per step: the oldest waiting samples while there is much room, then those that fill the rest best."""

    def __init__(self, planner: Planner, course: Course, lane: int, state: LaneState) -> None:
        """``planner``: one whose ``skipped`` is a Journal."""
        self.planner, self.course, self.lane = planner, course, lane
        self.journal: Journal = planner.skipped  # type: ignore[assignment]
        state = copy.deepcopy(state) if state.taken else course.start(lane)
        self.taken, self.spent = state.taken, state.spent
        self.waiting: list[tuple[tuple[int, int], Plan]] = []
        for source, number in state.waiting:
            plan = self._plan(source, number)
            if plan is not None:
                self.waiting.append(((source, number), plan))
        self.journal.drain()  # they were counted before the stop

    def _plan(self, source: int, number: int) -> Plan | None:
        return self.planner.plan(source, *self.course.sample(source, self.lane, number), self.course.seed)

    def _look_ahead(self) -> None:
        """Fill the window. Raises DataError when too many samples in a row cannot be used."""
        missed = 0
        while len(self.waiting) < WINDOW:
            source = self.course.turns.next(self.spent)
            number = self.taken[source]
            self.taken[source] += 1
            plan = self._plan(source, number)
            if plan is not None:
                self.spent[source] += plan.positions
                self.waiting.append(((source, number), plan))
                missed = 0
            elif (missed := missed + 1) == BARREN:
                reasons = Skipped(1.0)
                for reason, name in self.journal.skipped:
                    reasons.note(reason, name)
                raise DataError(
                    f"{BARREN} samples in a row cannot be used: {reasons}",
                    "mend these shards (salad-ds lint says what is wrong with them), or leave their source out",
                )

    def plans(self) -> list[Plan]:
        """Plans that together fill at most ``context`` positions, the oldest waiting one among them."""
        chosen: list[Plan] = []
        room = self.course.context
        while True:
            self._look_ahead()
            sizes = [plan.positions for _, plan in self.waiting]
            # The oldest goes in whatever it costs, so that no sample waits for ever; and more of them as long as the
            # waiting would all fit, for a choice needs more samples than room.
            if chosen and (2 * room <= sum(sizes) or sizes[0] > room):
                best = fullest(sizes, room)
                chosen += [self.waiting[i][1] for i in best]
                self.waiting = [entry for i, entry in enumerate(self.waiting) if i not in set(best)]
                return chosen
            _, plan = self.waiting.pop(0)
            chosen.append(plan)
            room -= plan.positions

    def row(self, load: bool = True) -> Row | None:
        """The next row. Without ``load``, for a row that somebody else loads, None, and nothing but the planning."""
        began = self._state()
        plans = self.plans()
        sequences = [found for plan in plans if (found := self.planner.load(plan)) is not None] if load else []
        told = self.journal.drain()
        if not load:
            return None
        return Row(sequences, self._state(), *told, began)

    def _state(self) -> LaneState:
        return LaneState(list(self.taken), list(self.spent), [pair for pair, _ in self.waiting])


def with_journal(planner: Planner) -> Planner:
    """The same planner for a lane: what it skips is told with each row instead of counted at once."""
    twin = copy.copy(planner)
    twin.skipped = Journal()  # type: ignore[assignment]
    return twin
