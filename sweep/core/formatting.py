"""Parameters, values and durations as text."""

from __future__ import annotations

from collections.abc import Mapping

from sweep.core.trial import Value


def format_seconds(seconds: float) -> str:
    """Such as '45 s', '12 min', '3 h 05 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


def short_name(key: str) -> str:
    """'loss.star_weight' -> 'star_weight', for tables and run names."""
    return key.rsplit(".", 1)[-1]


def format_params(params: Mapping[str, Value]) -> str:
    """Short text of a trial's parameters, such as 'star_weight=1.2 lr=0.001'."""
    return " ".join(f"{short_name(k)}={format_value(v)}" for k, v in params.items())


def format_value(value: Value) -> str:
    """Three significant digits of a float, any other value unchanged."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
