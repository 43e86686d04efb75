"""Faulty faces that are left out under data.skip_bad: which, why, and whether they are too many."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from trainer.errors import DataError

_NUMBER: Final = re.compile(r"[-+]?\d[\d.e+-]*")
_MOST_REASONS: Final = 4


class Fault(NamedTuple):
    """A face that cannot be used: where it is listed, 'file:line', and why."""

    origin: str
    reason: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.reason}"


def reasons(faults: Sequence[Fault]) -> str:
    """How many faults are of which kind, the most frequent first: '3 x there is no picture, 1 x is cut short'."""
    counts = Counter(map(_kind, faults)).most_common()
    shown = [f"{count} x {kind}" for kind, count in counts[:_MOST_REASONS]]
    rest = sum(count for _, count in counts[_MOST_REASONS:])
    return ", ".join(shown + ([f"{rest} x others"] if rest else []))


def require_few(faults: Sequence[Fault], of: int, most: float, what: str) -> None:
    """Raises DataError where more than a share `most` of `of` faces is faulty."""
    if len(faults) > most * of:
        raise DataError(
            f"{what}: {len(faults)} of {of} faces are faulty ({reasons(faults)}), such as {faults[0]}; "
            f"data.skip_bad leaves out at most data.skip_at_most = {most:g} of them"
        )


def _kind(fault: Fault) -> str:
    """The reason without what differs from face to face: paths, numbers, values."""
    words = [word for word in fault.reason.split() if "/" not in word]
    return _NUMBER.sub("N", " ".join(words)).lstrip(": ")
