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
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError


class ConfigError(ValueError):
    """A setting that does not fit; the message names field, value, what is allowed and the nearest valid key."""


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


M = TypeVar("M", bound=Section)
Tree = dict[str, Any]
_YAML_ERRORS = (yaml.YAMLError, ValueError, RecursionError)  # ConfigError is a ValueError
_TAGS = (None, *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool")))
_NULLS = ("null", "~")
_MOST_NODES = 20_000
_MOST_FAULTS = 20
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class _Loader(yaml.SafeLoader):
    """The safe loader, reading 1e-3 as a number (YAML 1.1 calls it text), naming the line of what it cannot read.

    It refuses a key given twice, tags that drop or reorder values, and what would grow without end: aliases that unfold
    to more than `_MOST_NODES` values or into themselves, and integers of more than 63 bits.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._nodes, self._sizes = 0, dict[int, int]()

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event, before = self.peek_event(), self._nodes
        line = event.start_mark.line + 1
        if getattr(event, "tag", None) not in _TAGS:
            raise ConfigError(f"line {line}: the tag {event.tag} is not read")
        node = super().compose_node(parent, index)
        if not isinstance(event, yaml.AliasEvent):
            self._nodes += 1
            self._sizes[id(node)] = self._nodes - before
        elif id(node) not in self._sizes:
            raise ConfigError(f"line {line}: the alias *{event.anchor} stands inside of what it names")
        else:
            self._nodes += self._sizes[id(node)]
        if self._nodes > _MOST_NODES:
            raise ConfigError(f"line {line}: holds more than {_MOST_NODES} values")
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except ConfigError:
            raise
        except (ValueError, TypeError, LookupError, AttributeError) as error:  # such as the date 2024-99-99
            raise ConfigError(f"line {node.start_mark.line + 1}: {error}") from None
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ConfigError(f"line {node.start_mark.line + 1}: an integer must lie within +-2^63")
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for inner, _ in node.value:
            key = self.construct_object(inner, deep=True)
            if isinstance(key, str) and key in seen:
                raise ConfigError(f"line {inner.start_mark.line + 1}: {shorten(key)}: given twice")
            seen.add(key if isinstance(key, str) else None)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """The safe dumper, quoting the text 1e-3, which the loader would read as a number."""


for _reader_or_writer in (_Loader, _Dumper):
    _reader_or_writer.add_implicit_resolver(
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
        raise ConfigError(f"{path}: is not valid YAML: {shorten(' '.join(str(error).split()), 600)}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: must hold a mapping of settings, but holds {type(tree).__name__}")
    return tree


def write_yaml(tree: Mapping[str, Any], path: str | Path) -> None:
    """Writes a mapping as YAML; a reader sees the old file or the whole new one."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    text = yaml.dump(dict(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def fields(model: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yields every leaf as ('optim.lr', field), in the order of declaration."""
    for name, info in model.model_fields.items():
        inner = _section_of(info)
        if inner:
            yield from fields(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", info


def shorten(text: str, most: int = 200) -> str:
    """The text as a message can hold it: printable, and only its start where it is long."""
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


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

    def format_help(self) -> str:
        """The help, whose first lines leave out the settings: there are too many to be read there."""
        formatter = self._get_formatter()
        formatter.add_usage(None, [a for a in self._actions if not a.dest.startswith("setting:")], [], "")
        more = " [--SETTING V ...]" if any(a.dest.startswith("setting:") for a in self._actions) else ""
        self.usage = formatter.format_help().strip().replace("%", "%%") + more
        return super().format_help()

    def overrides(self, arguments: argparse.Namespace) -> dict[str, str]:
        """Returns the settings given on the command line."""
        given = {k.removeprefix("setting:"): v for k, v in vars(arguments).items() if k.startswith("setting:")}
        return {key: value for key, value in given.items() if value is not None}

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Parses, or exits with code 2 and one message that names the nearest option.

        Settings may also be spelled with hyphens, as other options are.
        """
        parsed, unknown = self.parse_known_args(
            [self._spelled(word) for word in (sys.argv[1:] if argv is None else argv)]
        )
        if unknown:
            options = [o.removeprefix("--") for o in self._option_string_actions if o.startswith("--")]
            key = unknown[0].split("=")[0].lstrip("-")
            self.error(f"{unknown[0]}: unknown option{nearest(key, options)}")
        return parsed

    def _spelled(self, word: str) -> str:
        name, equals, value = word.partition("=")
        key = "--" + name[2:].replace("-", "_")
        known = self._option_string_actions
        return key + equals + value if name.startswith("--") and name not in known and key in known else word

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
    if str in options and not (type(None) in options and text in _NULLS):
        return text
    try:
        value = yaml.load(text, Loader=_Loader)
    except _YAML_ERRORS:
        return text
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
