"""YAML read strictly and written whole."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from trainer.atomic_file import replacing
from trainer.errors import ConfigError
from trainer.settings.text import shorten

Tree = dict[str, Any]
_YAML_ERRORS = (yaml.YAMLError, ValueError, RecursionError)  # ConfigError is a ValueError
_TAGS = (None, *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool")))


_MOST_NODES = 20_000


class _Dumper(yaml.SafeDumper):
    """The safe dumper, quoting the text 1e-3, which the loader would read as a number."""


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


for _reader_or_writer in (_Loader, _Dumper):
    _reader_or_writer.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)$"),
        list("-+0123456789."),
    )


def read_value(text: str) -> Any:
    """The value that a text stands for in a config file; the text itself where that is not YAML."""
    try:
        return yaml.load(text, Loader=_Loader)
    except _YAML_ERRORS:
        return text


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
    text = yaml.dump(dict(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    with replacing(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")
