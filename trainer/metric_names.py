"""Names of failure rate and AUC, which hold their threshold: fr10 and auc10 are at an NME of 0.10."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_RATE: Final = re.compile(r"fr[0-9.]+")


def rate_names(threshold: float) -> tuple[str, str]:
    """Names of failure rate and AUC at a threshold: ('fr10', 'auc10') at 0.10."""
    percent = f"{round(100 * threshold, 6):g}"
    return f"fr{percent}", f"auc{percent}"


def rates_in(found: Iterable[str]) -> tuple[str, str]:
    """The names of failure rate and AUC among those of metrics."""
    (name,) = (name for name in found if _RATE.fullmatch(name))
    return name, f"auc{name.removeprefix('fr')}"


def rate_label(name: str) -> str:
    """How tables call such a rate: 'FR@0.10' for fr10."""
    kind = name.rstrip("0123456789.")
    threshold = float(name.removeprefix(kind)) / 100
    return f"{kind.upper()}@{threshold:.2f}" if round(threshold, 2) == threshold else f"{kind.upper()}@{threshold:g}"
