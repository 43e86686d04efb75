"""The NME that each trial is expected to end at, kept up to date report by report.

From its last epoch on, a curve is expected to fall as much as the median of those that went on from there, first to the
next epoch at which trials stand, then from that one. Where none has gone on, it stays.

Legend: N trials, those with the numbers 0 to N - 1.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sweep.core.trial import TrialRecord

Curve = Mapping[int, float]
_ROOM = 1024  # trials at first; doubled when needed


class Promises:
    """Expected ends of trials.

    Args:
        epochs: of a whole training; a trial that has them all ends at what it has.
        records: of trials, to begin with.
    """

    def __init__(self, epochs: int, records: Iterable[TrialRecord] = ()) -> None:
        self._epochs = epochs
        self._curves: dict[int, Curve] = {}
        self._epoch = np.zeros(_ROOM, np.int64)  # (N,) at which each stands, and the logarithm of its NME there
        self._log = np.full(_ROOM, np.nan)  # (N,)
        self._count = 0  # N
        self._stands: Counter[int] = Counter()  # trials at each epoch
        # How much curves fell from one epoch to another, rising, by the later and the earlier one
        self._falls: dict[int, dict[int, list[float]]] = defaultdict(dict)
        for record in records:
            self.put(record)

    def put(self, record: TrialRecord, *, counts: bool = True) -> None:
        """Takes in what is known of a trial by now, or forgets it where it no longer counts.

        It has no promise without a finite NME.
        """
        number = record.number
        self._make_room(number + 1)
        before, nme = self._curves.pop(number, {}), record.best_nme
        now = record.curve if counts and nme is not None and 0 < nme < math.inf else {}
        grown = now.keys() - before.keys()
        if before.keys() <= now.keys() and max(before, default=0) < min(grown, default=math.inf):
            self._note(now, grown)
        else:
            self._forget(before)
            self._note(now, now)
        if before:
            self._stands[int(self._epoch[number])] -= 1
            self._log[number] = np.nan
        if now:
            epoch = max(now)
            self._curves[number], self._epoch[number], self._log[number] = now, epoch, math.log(now[epoch])
            self._stands[epoch] += 1

    def ends(self) -> dict[int, float]:
        """The log NME at which each trial with a curve is expected to end, by number."""
        return by_number(self.all_ends())

    def all_ends(self) -> NDArray[np.float64]:
        """The same for all trials, (N,): no number (NaN) for those without a curve."""
        stands = sorted({epoch for epoch, count in self._stands.items() if count} | {self._epochs})
        fall, falls = 0.0, {self._epochs: 0.0}  # of the logarithm, from an epoch to the end
        for here, later in reversed(list(itertools.pairwise(stands))):
            between = self._between(here, later)
            fall += middle(between) if between else 0.0
            falls[here] = fall
        table = np.zeros(max(stands) + 1)  # by epoch
        table[list(falls)] = list(falls.values())
        return self._log[: self._count] + table[self._epoch[: self._count]]

    def _make_room(self, count: int) -> None:
        self._count = max(self._count, count)
        if (more := count - len(self._log)) > 0:
            more = max(more, len(self._log))
            self._epoch = np.append(self._epoch, np.zeros(more, np.int64))
            self._log = np.append(self._log, np.full(more, np.nan))

    def _note(self, curve: Curve, laters: Iterable[int]) -> None:
        for later in laters:
            for here, falls in self._falls[later].items():
                if here in curve:
                    insort(falls, _fall(curve, here, later))

    def _forget(self, curve: Curve) -> None:
        for later in curve:
            for here, falls in self._falls[later].items():
                if here in curve:
                    del falls[bisect_left(falls, _fall(curve, here, later))]

    def _between(self, here: int, later: int) -> list[float]:
        """How much curves fell between two epochs, rising; looked up for all once, and noted from then on."""
        known = self._falls[later]
        if here not in known:
            curves = (c for c in self._curves.values() if later in c and here in c)
            known[here] = sorted(_fall(c, here, later) for c in curves)
        return known[here]


def by_number(values: NDArray[np.float64]) -> dict[int, float]:
    """The values, (N,), of those trials that have one."""
    numbers = np.flatnonzero(~np.isnan(values))
    return dict(zip(numbers.tolist(), values[numbers].tolist(), strict=True))


def _fall(curve: Curve, here: int, later: int) -> float:
    """Of the logarithm."""
    return math.log(curve[later] / curve[here])


def middle(rising: Sequence[float]) -> float:
    """The median of what is sorted already."""
    half = len(rising) // 2
    return rising[half] if len(rising) % 2 else (rising[half - 1] + rising[half]) / 2
