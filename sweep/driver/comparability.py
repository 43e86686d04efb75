"""Whether a sweep can go on here: the same faces, the same form of computation, and which versions have changed."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from rich.console import Console

from sweep.core.config import SweepConfig
from sweep.execution.node_setup import Readiness
from sweep.storage.sweep_folder import CONFIG_FILE
from trainer.config import TrainConfig
from trainer.data.crops import HASH_VERSION
from trainer.errors import ConfigError
from trainer.forms import adopt, choose, form_of, is_open, slow_warning
from trainer.settings import read_yaml

logger = logging.getLogger(__name__)


def with_earlier_form(config: SweepConfig) -> SweepConfig:
    """The config with the form of the trials in its folder, if it leaves the form open."""
    if not is_open(config.train):
        return config
    try:
        earlier = TrainConfig.from_tree(read_yaml(config.folder / CONFIG_FILE)["train"])
    except (ConfigError, KeyError):  # a new sweep, or a file that does not tell
        return config
    return config.with_train(adopt(config.train, earlier))


def with_common_form(config: SweepConfig, ready: Readiness, console: Console) -> SweepConfig:
    """The config with one form for all machines, which is printed; unchanged if it names one, or nothing is trained."""
    if not is_open(config.train) or not ready.speeds:
        for name, speeds in ready.speeds.items():
            if text := slow_warning(config.train, speeds):
                logger.warning("%s: %s", name, text)
        return config
    config = config.with_train(choose(config.train, ready.speeds))
    form = form_of(config.train)
    known = (f"{s.rates[form]:.1f} images/s, {s.source}" if s.measured else s.source for s in ready.speeds.values())
    console.print(
        f"networks are computed in {form}: {'; '.join(dict.fromkeys(known))}", highlight=False, soft_wrap=True
    )
    return config


def check_faces(config: SweepConfig, before: Mapping[str, str], tags: Mapping[str, str]) -> None:
    """Raises ConfigError if the trials of this sweep were measured on other faces."""
    changed = []
    for key in (key for key in tags if key.startswith("data.hash.")):
        old, facts = before.get(key, tags[key]), key.replace("data.hash", "faces")
        if old.startswith(HASH_VERSION) and old != tags[key]:
            changed += [f"{key}: {old} -> {tags[key]}", f"  {before[facts]}", f"  {tags[facts]}"]
    if changed:
        lines = "\n  ".join(changed)
        raise ConfigError(
            f"sweep {config.name!r} has trials on other faces:\n  {lines}\nbring the old faces back, or go on in a "
            f"sweep of its own, which tries the best of this one first: --name NEW --warm_start '[{config.name}]'"
        )


def warn_of_other_versions(before: Mapping[str, str], tags: Mapping[str, str]) -> None:
    """Warns if libraries have other versions than before: numbers may differ in their last digits."""
    versions = [key for key in tags if key.startswith("version.") and before.get(key, tags[key]) != tags[key]]
    if versions:
        changes = ", ".join(f"{key.removeprefix('version.')} {before[key]} -> {tags[key]}" for key in versions)
        logger.warning("goes on with other versions than before, numbers may differ in their last digits: %s", changes)
