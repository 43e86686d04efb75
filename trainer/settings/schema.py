"""Settings as classes: built from trees and overrides, with one clear message when something does not fit.

`TrainConfig` and the sweep's `SweepConfig` are both built from `Section` and read by `load`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from trainer.errors import ConfigError
from trainer.settings.text import nearest, shorten
from trainer.settings.yaml_io import Tree, read_value, read_yaml


class Section(BaseModel):
    """Base of all settings: unknown keys, wrong types, NaN and infinity are errors, and nothing changes later."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _printable(cls, value: Any) -> Any:
        """No path, name or URL holds these; a file system or database would stumble over them much later."""
        if isinstance(value, str) and (found := _UNPRINTABLE.search(value)):
            raise PydanticCustomError(
                "unprintable", "must be printable text, but holds {found}", {"found": repr(found[0])}
            )
        return value


@dataclass(frozen=True)
class NotSearched:
    """Says of a setting that no sweep may search it, and why: `lists: Annotated[str, NotSearched("...")]`."""

    reason: str


M = TypeVar("M", bound=Section)
_NULLS = ("null", "~")
_MOST_FAULTS = 20
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def fields(model: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yields every leaf as ('optim.lr', field), in the order of declaration."""
    for name, info in model.model_fields.items():
        inner = _section_of(info)
        if inner:
            yield from fields(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", info


def not_searched(info: FieldInfo) -> str | None:
    """Why no sweep may search a setting; None where one may."""
    return next((mark.reason for mark in info.metadata if isinstance(mark, NotSearched)), None)


def refuse_without_effect(section: Section, name: str, prefix: str, reason: str) -> None:
    """Raises ValueError if a setting that cannot apply is not at its default, as if it had an effect."""
    value, default = getattr(section, name), type(section).model_fields[name].default
    if value != default:
        raise ValueError(f"{prefix}.{name} = {value!r}: cannot apply, {reason} (leave it at {default!r})")


def set_key(tree: Tree, key: str, value: Any) -> None:
    """Sets 'optim.lr' inside nested mappings, in place."""
    *parents, leaf = key.split(".")
    for parent in parents:
        inner = tree.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{key}: {parent} holds {shorten(repr(inner))}, which has no settings of its own")
        tree = inner
    tree[leaf] = value


def apply_overrides(model: type[Section], tree: Tree, overrides: Mapping[str, str]) -> None:
    """Writes 'optim.lr' = '3e-4' and the like into the tree, read as YAML where the field is not text."""
    known = dict(fields(model))
    for key, text in overrides.items():
        if key not in known:
            raise ConfigError(f"{key}: unknown setting{nearest(key, list(known))}")
        set_key(tree, key, _parse(known[key], text))


def build(model: type[M], tree: Tree, origin: str) -> M:
    """Validates a tree into settings.

    Raises:
        ConfigError: one line a fault, naming field, value and what is allowed.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        valid = [key for key, _ in fields(model)]
        lines = dict.fromkeys(_explain(dict(e), valid) for e in error.errors()[:_MOST_FAULTS])
        if error.error_count() > _MOST_FAULTS:
            lines[f"and {error.error_count() - _MOST_FAULTS} faults more"] = None
        raise ConfigError(f"{origin}: " + "\n  ".join(lines)) from None


def load(model: type[M], path: str | Path | None, overrides: Mapping[str, str] | None = None) -> M:
    """Reads settings from a YAML file (None: the defaults) and overrides of single fields."""
    tree = read_yaml(path) if path is not None else {}
    apply_overrides(model, tree, overrides or {})
    return build(model, tree, str(path or model.__name__))


def _section_of(info: FieldInfo) -> type[Section] | None:
    return info.annotation if isinstance(info.annotation, type) and issubclass(info.annotation, Section) else None


def alternatives(annotation: Any) -> list[Any]:
    """The alternatives of a union or literal; one for every other kind."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return [option for inner in get_args(annotation) for option in alternatives(inner)]
    return [annotation]


def _parse(info: FieldInfo, text: str) -> Any:
    """Text stays text where the field is text, so that a folder named 2024 is no number."""
    options = alternatives(info.annotation)
    if str in options and not (type(None) in options and text in _NULLS):
        return text
    value = read_value(text)
    return text if value is None and type(None) in options and text not in _NULLS else value


def _explain(error: dict[str, Any], valid: list[str]) -> str:
    key = shorten(".".join(str(part) for part in error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown setting{nearest(key, valid)}"
    message = shorten(str(error["msg"]).removeprefix("Value error, "), 600)
    if error["type"] == "missing":
        return f"{key}: is needed and not given"
    if error["type"] == "value_error":
        return f"{key}: {message}" if key and not message.startswith(key) else message
    shown = shorten(repr(error["input"]))
    return f"{key} = {shown}: {message[0].lower()}{message[1:]}" if key else f"{shown}: {message}"
