"""The search space: which settings of the trainer are searched, between which values. Pure; knows no library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from trainer.config import TrainConfig
from trainer.settings import ConfigError, fields, nearest

Kind = Literal["uniform", "log_uniform", "int", "log_int", "choice"]
KINDS: tuple[Kind, ...] = ("uniform", "log_uniform", "int", "log_int", "choice")
Value = float | int | str | bool | None
Params = dict[str, Value]


@dataclass(frozen=True)
class Dimension:
    """One searched setting: a range (low, high, both included) or a list of choices."""

    key: str
    kind: Kind
    low: float = 0.0
    high: float = 0.0
    choices: tuple[Value, ...] = ()

    @property
    def probes(self) -> tuple[Value, ...]:
        """Values that must all be valid for the whole dimension to be: the ends, or every choice."""
        if self.kind == "choice":
            return self.choices
        if self.kind in ("int", "log_int"):
            return int(self.low), int(self.high)
        return self.low, self.high

    def contains(self, value: Value) -> bool:
        if self.kind == "choice":
            return value in self.choices
        return isinstance(value, int | float) and self.low <= value <= self.high


def parse_space(space: Mapping[str, Mapping[str, Any]], base: TrainConfig) -> tuple[Dimension, ...]:
    """Reads {'optim.lr': {'log_uniform': [1e-4, 1e-2]}, ...} and checks every key and end against the trainer's config.

    Raises:
        ConfigError: names the key, the value and what is allowed.
    """
    if not space:
        raise ConfigError("space: is empty; nothing to search")
    return tuple(_checked(_parse_dimension(key, spec), base) for key, spec in space.items())


def check_params(params: Mapping[str, Value], space: tuple[Dimension, ...], origin: str) -> None:
    """Refuses a known configuration that the space does not contain.

    Raises:
        ConfigError: names the key, the value and what is allowed.
    """
    known = {d.key: d for d in space}
    for key, value in params.items():
        if key not in known:
            raise ConfigError(f"{origin}: {key} is not in the space{nearest(key, list(known))}")
        if not known[key].contains(value):
            raise ConfigError(f"{origin}: {key} = {value!r} is outside of the space ({_text(known[key])})")


def short_name(key: str) -> str:
    """'loss.star_weight' -> 'star_weight', for tables and run names."""
    return key.rsplit(".", 1)[-1]


def format_params(params: Mapping[str, Value]) -> str:
    """Short text of a trial's parameters, such as 'star_weight=1.2 lr=0.001'."""
    return " ".join(f"{short_name(k)}={format_value(v)}" for k, v in params.items())


def format_value(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _parse_dimension(key: str, spec: Any) -> Dimension:
    if not isinstance(spec, Mapping) or len(spec) != 1 or next(iter(spec)) not in KINDS:
        raise ConfigError(f"space.{key} = {spec!r}: must be one of {', '.join(KINDS)} with its values")
    kind, values = next(iter(spec.items()))
    if not isinstance(values, list | tuple) or len(values) < 2:
        raise ConfigError(f"space.{key}.{kind} = {values!r}: must be a list of two or more values")
    if kind == "choice":
        if len(set(map(repr, values))) != len(values):
            raise ConfigError(f"space.{key}.choice = {values!r}: must hold every choice once")
        return Dimension(key, kind, choices=tuple(values))
    low, high = _ends(key, kind, values)
    return Dimension(key, kind, low, high)


def _ends(key: str, kind: str, values: list[Any] | tuple[Any, ...]) -> tuple[float, float]:
    number = int if kind in ("int", "log_int") else (int, float)
    if len(values) != 2 or not all(isinstance(v, number) and not isinstance(v, bool) for v in values):
        raise ConfigError(f"space.{key}.{kind} = {values!r}: must be two {'integers' if number is int else 'numbers'}")
    low, high = values
    if not low < high:
        raise ConfigError(f"space.{key}.{kind} = {values!r}: the first must be below the second")
    if kind.startswith("log") and low <= 0:
        raise ConfigError(f"space.{key}.{kind} = {values!r}: a logarithmic range must lie above 0")
    return low, high


def _checked(dimension: Dimension, base: TrainConfig) -> Dimension:
    valid = [key for key, _ in fields(TrainConfig) if not key.startswith("run.")]
    if dimension.key.startswith("run."):
        raise ConfigError(f"space.{dimension.key}: settings of section run are not searched")
    if dimension.key not in valid:
        raise ConfigError(f"space.{dimension.key}: the trainer has no such setting{nearest(dimension.key, valid)}")
    for value in dimension.probes:
        try:
            base.replace({dimension.key: value})
        except ConfigError as error:
            raise ConfigError(f"space.{dimension.key} ({_text(dimension)}): {error}") from None
    return dimension


def _text(dimension: Dimension) -> str:
    if dimension.kind == "choice":
        return "one of " + ", ".join(map(repr, dimension.choices))
    return f"{dimension.kind} {dimension.low:g} to {dimension.high:g}"
