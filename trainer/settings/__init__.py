"""Strict, frozen settings: YAML and command-line overrides in, one clear message out."""

from trainer.errors import ConfigError
from trainer.settings.command_line import ArgumentParser
from trainer.settings.schema import (
    NotSearched,
    Section,
    apply_overrides,
    build,
    fields,
    load,
    not_searched,
    refuse_without_effect,
    set_key,
)
from trainer.settings.text import nearest, shorten
from trainer.settings.yaml_io import Tree, read_yaml, write_yaml

__all__ = [
    "ArgumentParser",
    "ConfigError",
    "NotSearched",
    "Section",
    "Tree",
    "apply_overrides",
    "build",
    "fields",
    "load",
    "nearest",
    "not_searched",
    "read_yaml",
    "refuse_without_effect",
    "set_key",
    "shorten",
    "write_yaml",
]
