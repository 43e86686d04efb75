"""The search space: which settings of the trainer are searched, over which values. Pure functions."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sweep.core.formatting import format_params
from sweep.core.trial import Params, Value
from trainer.config import TrainConfig
from trainer.errors import ConfigError
from trainer.settings import fields, nearest, not_searched

Kind = Literal["uniform", "log_uniform", "int", "log_int", "choice"]
KINDS: tuple[Kind, ...] = ("uniform", "log_uniform", "int", "log_int", "choice")
_MOST_COMBINATIONS = 500  # checked when a sweep starts
_MOST_CHOICES = 1000
_MOST_POINTS = 10_000  # of a grid


@dataclass(frozen=True)
class Dimension:
    """One searched setting: a range (low, high, both included) or a list of choices.

    `when` holds conditions, (key of an earlier choice, values): unless all are met, the setting keeps its value of the
    base config.
    """

    key: str
    kind: Kind
    low: float = 0.0
    high: float = 0.0
    choices: tuple[Value, ...] = ()
    when: tuple[tuple[str, tuple[Value, ...]], ...] = ()

    @property
    def probes(self) -> tuple[Value, ...]:
        """Values that represent the dimension in checks: the ends of a range, every choice or integer."""
        if self.kind == "choice":
            return self.choices
        if self.kind in ("int", "log_int"):
            low, high = int(self.low), int(self.high)
            return tuple(range(low, high + 1)) if high - low < 1000 else (low, low + 1, high - 1, high)
        return float(self.low), float(self.high)

    def share(self, value: float) -> float:
        """Position of a number in the range, 0 to 1; in the logarithm if the range is logarithmic."""
        if self.kind.startswith("log"):
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def contains(self, value: Value) -> bool:
        """Whether this is a value of the dimension."""
        if self.kind == "choice":
            return value in self.choices
        number = int if self.kind in ("int", "log_int") else int | float
        return isinstance(value, number) and not isinstance(value, bool) and self.low <= value <= self.high


def parse_space(space: Mapping[str, Mapping[str, Any]], base: TrainConfig | None) -> tuple[Dimension, ...]:
    """Reads {'optim.lr': {'log_uniform': [1e-4, 1e-2]}, ...} and checks every key and end against the trainer's config.

    A setting may depend on choices above it: {'log_uniform': [0.01, 100], 'when': {'loss.name': 'star'}}. Without a
    trainer's config the settings may be anybody's.

    Raises:
        ConfigError: names the key, the value and what is allowed.
    """
    if not space:
        raise ConfigError("space: is empty; nothing to search")
    dimensions = tuple(_parse_dimension(key, spec) for key, spec in space.items())
    for i, dimension in enumerate(dimensions):
        if base is not None:
            _check_key(dimension)
        _check_condition(dimension, dimensions[:i])
    if base is not None:
        _check_combinations(dimensions, base)
    return dimensions


def check_params(
    params: Mapping[str, Value], space: tuple[Dimension, ...], base: TrainConfig | None, origin: str
) -> None:
    """Checks that a known configuration is in the space and valid for the trainer.

    Raises:
        ConfigError: names the key, the value and what is allowed.
    """
    known = {d.key: d for d in space}
    for key, value in params.items():
        if key not in known:
            raise ConfigError(f"{origin}: {key} is not in the space{nearest(key, list(known))}")
        if not known[key].contains(value):
            raise ConfigError(f"{origin}: {key} = {value!r} is outside of the space ({_text(known[key])})")
    if base is None:
        return
    try:
        base.replace(dict(params))
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None


def active(dimensions: Sequence[Dimension], params: Mapping[str, Value]) -> Params:
    """The parameters whose conditions are met, in the order of the space."""
    found: Params = {}
    for d in dimensions:
        if all(key in found and found[key] in values for key, values in d.when) and d.key in params:
            found[d.key] = params[d.key]
    return found


def filled(dimensions: Sequence[Dimension], params: Mapping[str, Value]) -> Params:
    """Parameters with a value for every dimension; the first one of a missing setting."""
    return {d.key: params.get(d.key, d.probes[0]) for d in dimensions}


def all_points(dimensions: Sequence[Dimension]) -> list[Params]:
    """All points of a space of choices and integers.

    Raises:
        ConfigError: a dimension is continuous, or there are too many points.
    """
    for d in dimensions:
        if d.kind != "choice" and "int" not in d.kind:
            raise ConfigError(f"sampler.name = 'grid': space.{d.key} is a range; list its values as a choice")
    if (count := math.prod(len(_values(d)) for d in dimensions)) > _MOST_POINTS:
        raise ConfigError(f"sampler.name = 'grid': the space has {count} points, more than {_MOST_POINTS}")
    points = (
        active(dimensions, dict(zip((d.key for d in dimensions), values, strict=True)))
        for values in itertools.product(*map(_values, dimensions))
    )
    return list({repr(point): point for point in points}.values())


def _values(d: Dimension) -> Sequence[Value]:
    return d.choices if d.kind == "choice" else range(int(d.low), int(d.high) + 1)


def _parse_dimension(key: str, spec: Any) -> Dimension:
    when = _parse_condition(key, spec.get("when", {})) if isinstance(spec, Mapping) else ()
    rest = {k: v for k, v in spec.items() if k != "when"} if isinstance(spec, Mapping) else {}
    if len(rest) != 1 or next(iter(rest)) not in KINDS:
        raise ConfigError(f"space.{key} = {spec!r}: must be one of {', '.join(KINDS)} with its values")
    kind, values = next(iter(rest.items()))
    if not isinstance(values, list | tuple) or len(values) < 2:
        raise ConfigError(f"space.{key}.{kind} = {values!r}: must be a list of two or more values")
    if kind == "choice":
        if len(values) > _MOST_CHOICES:
            raise ConfigError(f"space.{key}.choice: has {len(values)} values; more than {_MOST_CHOICES} are a range")
        if len(set(map(repr, values))) != len(values):
            raise ConfigError(f"space.{key}.choice = {values!r}: must hold every choice once")
        return Dimension(key, kind, choices=tuple(values), when=when)
    low, high = _ends(key, kind, values)
    return Dimension(key, kind, low, high, when=when)


def _parse_condition(key: str, spec: Any) -> tuple[tuple[str, tuple[Value, ...]], ...]:
    if not isinstance(spec, Mapping):
        raise ConfigError(f"space.{key}.when = {spec!r}: must be a mapping of a choice to its values")
    return tuple((str(k), tuple(v) if isinstance(v, list | tuple) else (v,)) for k, v in spec.items())


def _check_condition(dimension: Dimension, earlier: tuple[Dimension, ...]) -> None:
    choices = {d.key: d for d in earlier if d.kind == "choice"}
    for key, values in dimension.when:
        if key not in choices:
            raise ConfigError(
                f"space.{dimension.key}.when: {key} is no choice above it in the space{nearest(key, list(choices))}"
            )
        if unknown := [v for v in values if v not in choices[key].choices]:
            raise ConfigError(f"space.{dimension.key}.when.{key} = {unknown[0]!r}: must be {_text(choices[key])}")


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


def _check_key(dimension: Dimension) -> None:
    if dimension.key.startswith("run."):
        raise ConfigError(f"space.{dimension.key}: settings of section run are not searched")
    known = {key: info for key, info in fields(TrainConfig) if not key.startswith("run.")}
    if dimension.key not in known:
        valid = [key for key, info in known.items() if not_searched(info) is None]
        raise ConfigError(f"space.{dimension.key}: the trainer has no such setting{nearest(dimension.key, valid)}")
    if reason := not_searched(known[dimension.key]):
        raise ConfigError(f"space.{dimension.key}: {reason}")


def _check_combinations(dimensions: tuple[Dimension, ...], base: TrainConfig) -> None:
    """Checks that the trainer accepts every value of a dimension, and all combinations of ends and choices.

    Of more than 500 combinations, a seeded sample is checked.
    """
    for dimension in dimensions:
        rest = {d.key: d.probes[0] for d in dimensions if d is not dimension}
        for value in dimension.probes:
            params = _meeting(dimension, dimensions, rest | {dimension.key: value})
            _check_combination(params, base, f"space.{dimension.key} ({_text(dimension)})")
    corners = [(d.probes[0], d.probes[-1]) if d.kind != "choice" else d.probes for d in dimensions]
    combinations: Iterable[tuple[Value, ...]] = itertools.product(*corners)
    if math.prod(map(len, corners)) > _MOST_COMBINATIONS:
        rng = random.Random(0)
        combinations = [tuple(rng.choice(values) for values in corners) for _ in range(_MOST_COMBINATIONS)]
    for values in combinations:
        params = active(dimensions, dict(zip((d.key for d in dimensions), values, strict=True)))
        _check_combination(params, base, f"space ({format_params(params)})")


def _meeting(dimension: Dimension, dimensions: tuple[Dimension, ...], params: Params) -> Params:
    """The parameters, changed so that the conditions of a dimension are met."""
    conditions = {d.key: d.when for d in dimensions}
    waiting = list(dimension.when)
    while waiting:
        key, values = waiting.pop()
        params = params | {key: values[0]}
        waiting += conditions[key]
    return active(dimensions, params)


def _check_combination(params: Params, base: TrainConfig, origin: str) -> None:
    try:
        base.replace(params)
    except ConfigError as error:
        raise ConfigError(f"{origin}: {str(error).removeprefix('train config: ')}") from None


def _text(dimension: Dimension) -> str:
    if dimension.kind == "choice":
        return "one of " + ", ".join(map(repr, dimension.choices))
    return f"{dimension.kind} {dimension.low:g} to {dimension.high:g}"
