"""What more budget is expected to bring, from what the last of it brought. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

_PERSISTENCE = 0.5  # how much of a doubling's gain the next one brings; measured, see benchmarks/RESULTS.md


def next_doubling(reported: Sequence[float]) -> float | None:
    """By how much another doubling of the epochs is expected to lower the best NME, a fraction; None if too few.

    Half of what the last doubling brought, in logarithms.

    Args:
        reported: best NME so far of a trial at each of its epochs, all trials together in the order of their reports.
    """
    if len(reported) < 8:
        return None
    now, before = min(reported), min(reported[: len(reported) // 2])
    return max(0.0, now - math.exp(math.log(now) - _PERSISTENCE * math.log(before / now)))


def doubling_text(reported: Sequence[float]) -> str:
    """The same in words; empty if too little is known."""
    gain = next_doubling(reported)
    if gain is None:
        return ""
    last = min(reported[: len(reported) // 2]) - min(reported)
    return (
        f"{len(reported)} epochs spent; the second half of them lowered the best val NME by {last * 100:.2f} points, "
        f"as many again are expected to bring about {gain * 100:.2f} points"
    )
