"""Strict, frozen settings: YAML and command-line overrides in, one clear message out when something does not fit.

`TrainConfig` and the sweep's `SweepConfig` are both built from `Section` and read by `load`.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo


class ConfigError(ValueError):
    """A setting that does not fit; the message names field, value, what is allowed and the nearest valid key."""


class Section(BaseModel):
    """Base of all settings: unknown keys, wrong types, NaN and infinity are errors, and nothing changes later."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


M = TypeVar("M", bound=Section)
Tree = dict[str, Any]
# ConfigError is a ValueError; the others come from tags such as !!map on what is none
_YAML_ERRORS = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError)


class _Loader(yaml.SafeLoader):
    """The safe loader, reading 1e-3 as a number (YAML 1.1 calls it text) and refusing a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise ConfigError(f"{key}: given twice (line {node.start_mark.line + 1} and below)")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)$"),
    list("-+0123456789."),
)


def read_yaml(path: str | Path) -> Tree:
    """Reads a YAML mapping.

    Raises:
        ConfigError: no such file, not YAML, or not a mapping.
    """
    try:
        tree = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a config file ({error})") from None
    except _YAML_ERRORS as error:
        raise ConfigError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: must hold a mapping of settings, but holds {type(tree).__name__}")
    return tree


def write_yaml(tree: Mapping[str, Any], path: str | Path) -> None:
    """Writes a mapping as YAML; a reader sees the old file or the whole new one."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True), encoding="utf-8")
    temporary.replace(path)


def fields(model: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yields every leaf as ('optim.lr', field), in the order of declaration."""
    for name, info in model.model_fields.items():
        inner = _section_of(info)
        if inner:
            yield from fields(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", info


def nearest(key: str, valid: Sequence[str]) -> str:
    """Returns ' (nearest valid key: ...)' for a misspelt key, or '' when nothing is near."""
    close = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
    if not close:
        leaf = key.rsplit(".", 1)[-1]
        close = [v for v in valid if v.rsplit(".", 1)[-1] == leaf][:1]
    return f" (nearest valid key: {close[0]})" if close else ""


def set_key(tree: Tree, key: str, value: Any) -> None:
    """Sets 'optim.lr' inside nested mappings, in place."""
    *parents, leaf = key.split(".")
    for parent in parents:
        inner = tree.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{key}: {parent} holds {inner!r}, which has no settings of its own")
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
        lines = dict.fromkeys(_explain(dict(e), valid) for e in error.errors())
        raise ConfigError(f"{origin}: " + "\n  ".join(lines)) from None


def load(model: type[M], path: str | Path | None, overrides: Mapping[str, str] | None = None) -> M:
    """Reads settings from a YAML file (None: the defaults) and overrides of single fields."""
    tree = read_yaml(path) if path is not None else {}
    apply_overrides(model, tree, overrides or {})
    return build(model, tree, str(path or model.__name__))


class ArgumentParser(argparse.ArgumentParser):
    """argparse whose options for settings are generated, and whose message for a misspelt option names the nearest."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def add_settings(self, model: type[Section], sections: Collection[str] | None = None) -> None:
        """Adds one option a leaf field (of these top sections only), with meaning, kind and default, by section."""
        groups: dict[str, Any] = {}
        for key, info in fields(model):
            if sections is not None and key.split(".")[0] not in sections:
                continue
            section = key.rsplit(".", 1)[0] if "." in key else ""
            if section not in groups:
                groups[section] = self.add_argument_group(f"{section} settings" if section else "settings")
            default = (
                "" if info.is_required() else f" [default: {_yaml_text(info.get_default(call_default_factory=True))}]"
            )
            text = f"{info.description or ''} {{{_kind(info)}}}{default}".replace("%", "%%")
            groups[section].add_argument(f"--{key}", dest=f"setting:{key}", default=None, metavar="V", help=text)

    def overrides(self, arguments: argparse.Namespace) -> dict[str, str]:
        """Returns the settings given on the command line."""
        given = {k.removeprefix("setting:"): v for k, v in vars(arguments).items() if k.startswith("setting:")}
        return {key: value for key, value in given.items() if value is not None}

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Parses, or exits with code 2 and one message that names the nearest option."""
        parsed, unknown = self.parse_known_args(argv)
        if unknown:
            options = [o.removeprefix("--") for o in self._option_string_actions if o.startswith("--")]
            key = unknown[0].split("=")[0].lstrip("-")
            self.error(f"{unknown[0]}: unknown option{nearest(key, options)}")
        return parsed

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(2)


def _section_of(info: FieldInfo) -> type[Section] | None:
    return info.annotation if isinstance(info.annotation, type) and issubclass(info.annotation, Section) else None


def _options(annotation: Any) -> list[Any]:
    """The alternatives of a union or literal; one for every other kind."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return [option for inner in get_args(annotation) for option in _options(inner)]
    return [annotation]


def _parse(info: FieldInfo, text: str) -> Any:
    """Text stays text where the field is text, so that a folder named 2024 is no number."""
    options = _options(info.annotation)
    if str in options and not (type(None) in options and text in ("null", "~")):
        return text
    try:
        return yaml.load(text, Loader=_Loader)
    except _YAML_ERRORS:
        return text


def _explain(error: dict[str, Any], valid: list[str]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown setting{nearest(key, valid)}"
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{key}: is needed and not given"
    if not key or error["type"] == "value_error":
        return f"{key}: {message}" if key and not message.startswith(key) else message
    return f"{key} = {error['input']!r}: {message[0].lower()}{message[1:]}"


def _kind(info: FieldInfo) -> str:
    annotation = info.annotation
    names = [
        "null" if o is type(None) else o if isinstance(o, str) else getattr(o, "__name__", str(o))
        for o in _options(annotation)
    ]
    limits = [
        f"{sign} {getattr(rule, name)}"
        for rule in info.metadata
        for name, sign in {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}.items()
        if hasattr(rule, name)
    ]
    if get_origin(annotation) is tuple:
        names = [f"list of {get_args(annotation)[0].__name__}"]
    elif get_origin(annotation) in (dict, list):
        names = ["YAML mapping" if get_origin(annotation) is dict else "YAML list"]
    return " | ".join(dict.fromkeys(names)) + (f", {', '.join(limits)}" if limits else "")


def _yaml_text(value: Any) -> str:
    if isinstance(value, tuple):
        value = list(value)
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
