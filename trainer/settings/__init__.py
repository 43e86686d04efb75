"""Strict, frozen settings: YAML and command-line overrides in, one clear message out."""

from trainer.errors import ConfigError
from trainer.settings.command_line import ArgumentParser
from trainer.settings.schema import Section, apply_overrides, build, fields, load, set_key
from trainer.settings.text import nearest, shorten
from trainer.settings.yaml_io import Tree, read_yaml, write_yaml

__all__ = [
    "ArgumentParser",
    "ConfigError",
    "Section",
    "Tree",
    "apply_overrides",
    "build",
    "fields",
    "load",
    "nearest",
    "read_yaml",
    "set_key",
    "shorten",
    "write_yaml",
]
