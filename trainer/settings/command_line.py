"""Command lines whose options are the settings of a schema."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from typing import Any, NoReturn, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from trainer.settings.schema import Section, alternatives, fields
from trainer.settings.text import nearest


class ArgumentParser(argparse.ArgumentParser):
    """argparse whose options for settings are generated, and whose message for a misspelt option names the nearest."""

    def __init__(self, **options: Any) -> None:
        self._options: list[str] = []  # all, as they are written
        self._settings = False
        self._short = argparse.ArgumentParser(prog=options.get("prog"), add_help=False)  # without the settings
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def add_argument(self, *names: str, **properties: Any) -> argparse.Action:
        """Adds an argument, as argparse does, and remembers how it is spelled."""
        action = super().add_argument(*names, **properties)
        self._options += action.option_strings
        self._short.add_argument(*names, **properties)
        return action

    def add_settings(self, model: type[Section], sections: Collection[str] | None = None) -> None:
        """Adds one option a leaf field (of these top sections only), with meaning, kind and default, by section."""
        self._settings = True
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
            self._options.append(f"--{key}")
            groups[section].add_argument(f"--{key}", dest=f"setting:{key}", default=None, metavar="V", help=text)

    def format_help(self) -> str:
        """The help, whose first lines leave out the settings: there are too many to be read there."""
        usage = self._short.format_usage().removeprefix("usage: ").strip().replace("%", "%%")
        self.usage = usage + (" [--SETTING V ...]" if self._settings else "")
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
            options = [option.removeprefix("--") for option in self._options if option.startswith("--")]
            key = unknown[0].split("=")[0].lstrip("-")
            self.error(f"{unknown[0]}: unknown option{nearest(key, options)}")
        return parsed

    def _spelled(self, word: str) -> str:
        name, equals, value = word.partition("=")
        key = "--" + name[2:].replace("-", "_")
        respelled = name.startswith("--") and name not in self._options and key in self._options
        return key + equals + value if respelled else word

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(2)


def _kind(info: FieldInfo) -> str:
    annotation = info.annotation
    names = [
        "null" if o is type(None) else o if isinstance(o, str) else getattr(o, "__name__", str(o))
        for o in alternatives(annotation)
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
