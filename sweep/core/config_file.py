"""Reads a sweep file and overrides into a complete SweepConfig with absolute paths."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from sweep.core.config import SweepConfig, in_todays_words
from sweep.core.mlflow_uri import resolve_uri
from sweep.core.redaction import redact
from trainer import settings
from trainer.cores import lone_of_many
from trainer.errors import ConfigError
from trainer.settings import Tree

S = TypeVar("S", bound=SweepConfig)

# Settings by the variables with which users of Ray and MLflow name the same
_GIVEN_BY = {
    "ray_address": "RAY_ADDRESS",
    "mlflow_uri": "MLFLOW_TRACKING_URI",
    "mlflow_experiment": "MLFLOW_EXPERIMENT_NAME",
}
_NOT_OBEYED = {
    "MLFLOW_EXPERIMENT_ID": "a sweep names its experiment (mlflow_experiment, or MLFLOW_EXPERIMENT_NAME)",
    "MLFLOW_RUN_ID": "a sweep makes runs of its own",
}
_INSTALLED, _CHECKED_OUT = (Path(__file__).parents[above] / "configs" for above in (1, 2))
RECIPES = _INSTALLED if _INSTALLED.exists() else _CHECKED_OUT
DEMO = RECIPES / "sweep" / "demo.yaml"


def load_sweep(path: str | Path | None, overrides: Mapping[str, str], *, written: bool = False) -> SweepConfig:
    """Reads a sweep file (None: the demo); `train` in it is a config file, relative to the sweep file, or inline.

    Paths are made absolute and the threads of a trial are its CPUs, so that a trial means the same wherever it runs.
    A file that was `written` by a sweep may be of an earlier version.

    Raises:
        ConfigError: one message that names field, value, what is allowed and the nearest valid key.
    """
    source = Path(path) if path is not None else DEMO
    tree = read_tree(source)
    if written:
        tree = in_todays_words(tree)
    return build_sweep(SweepConfig, tree, overrides, str(source))


def load_to_run(path: str | Path | None, overrides: Mapping[str, str]) -> tuple[SweepConfig, list[str]]:
    """As `load_sweep`, with what variables of Ray and MLflow give where neither the file nor an override does.

    Returns:
        The config, and a line for each variable: what it gives, or that it is not obeyed.

    Raises:
        ConfigError: as `load_sweep`; a fault of a variable's value names the variable.
    """
    source = Path(path) if path is not None else DEMO
    tree = read_tree(source)
    settings.apply_overrides(SweepConfig, tree, overrides)
    given = {key: os.environ[name] for key, name in _GIVEN_BY.items() if key not in tree and os.environ.get(name)}
    lines = [f"{name} is set, but {reason}" for name, reason in _NOT_OBEYED.items() if os.environ.get(name)]
    if lone_of_many():
        lines.append("WORLD_SIZE is set, but Ray starts the processes of a sweep (resources.workers)")
    if re.match(r"https?://", given.get("ray_address", "")):
        lines.append(f"RAY_ADDRESS is set, but {redact(given.pop('ray_address'))} is a dashboard and no cluster's head")
    elif given.get("ray_address") == "local":
        del given["ray_address"]
    try:
        config = build_sweep(SweepConfig, tree | given, {}, str(source))
    except ConfigError as error:
        names = [_GIVEN_BY[key] for key in given if key in str(error)]
        raise ConfigError(f"{error} (given by {names[0]})" if names else str(error)) from None
    return config, [f"{key} = {redact(value)} (given by {_GIVEN_BY[key]})" for key, value in given.items()] + lines


def read_tree(path: Path) -> Tree:
    """A sweep file as a tree, including the trainer's config file that it names; its file name names the sweep."""
    tree = settings.read_yaml(path)
    if isinstance(tree.get("train"), str):
        tree["train"] = settings.read_yaml(path.parent / tree["train"])
    tree.setdefault("name", path.stem)
    return tree


def build_sweep(kind: type[S], tree: Tree, overrides: Mapping[str, str], origin: str) -> S:
    """A sweep from a tree and overrides, with absolute paths; raises ConfigError if they are no valid sweep."""
    settings.apply_overrides(kind, tree, overrides)
    return _made_absolute(settings.build(kind, tree, origin))


def _made_absolute(config: S) -> S:
    """The config with absolute paths and the threads of a trial; the space, checked already, is not checked again."""
    train, threads = config.train, max(1, int(config.resources.cpus))
    if train.run.threads not in (None, threads):
        raise ConfigError(
            f"train.run.threads = {train.run.threads}: a trial has resources.cpus = {config.resources.cpus:g}, "
            f"hence {threads} threads (set resources.cpus instead)"
        )
    if train.run.output is not None:
        raise ConfigError(
            f"train.run.output = {train.run.output!r}: trials have folders of their own (set output instead)"
        )
    paths = {"data.root": train.data.root, "data.cache_dir": train.data.cache_dir}
    if train.model.pretrained not in ("none", "imagenet"):
        paths["model.pretrained"] = train.model.pretrained
    changes: dict[str, object] = {key: _absolute(f"train.{key}", path) for key, path in paths.items() if path}
    try:
        mlflow_uri = resolve_uri(config.mlflow_uri, Path(config.output)) if config.mlflow_uri else None
    except (ValueError, RuntimeError) as error:  # RuntimeError: ~ of a user that does not exist
        raise ConfigError(f"mlflow_uri: {error}") from None
    update = {
        "train": train.replace({**changes, "run.threads": threads}),
        "output": _absolute("output", config.output),
        "storage": _storage(config.storage),
        "mlflow_uri": mlflow_uri,
    }
    absolute = config.model_copy(update=update)
    vars(absolute).pop("folder", None)  # of the relative output, should it have been asked for
    return absolute


def _storage(uri: str | None) -> str | None:
    if uri is None or re.match(r"(s3|gs)://[^/]", uri):
        return uri
    if "://" in uri:
        raise ConfigError(f"storage = {redact(uri)!r}: must be s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or a folder")
    return _absolute("storage", uri)


def _absolute(key: str, path: str) -> str:
    try:
        # not resolve(): on the machines of a cluster, a link may lead elsewhere than here
        return os.path.abspath(Path(path).expanduser())  # noqa: PTH100
    except RuntimeError:
        raise ConfigError(f"{key} = {path!r}: there is no such user") from None
