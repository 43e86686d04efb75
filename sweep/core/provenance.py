"""Provenance of results: commit, library versions, machine, faces."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.cores import available_cores
from trainer.data.crops import HASH_VERSION

if TYPE_CHECKING:
    from sweep.core.config import SearchConfig
    from trainer.data.face_table import Split

_PACKAGES = ("starsweep", "torch", "torchvision", "ray", "optuna", "mlflow", "numpy", "opencv-python-headless")


def provenance() -> dict[str, str]:
    """Tags for the sweep's MLflow run."""
    tags = {f"version.{name}": _version(name) for name in _PACKAGES}
    tags["version.python"] = platform.python_version()
    tags["machine"] = f"{platform.system()} {platform.machine()}, {available_cores()} of {os.cpu_count()} CPUs"
    tags["git.commit"] = _commit()
    return tags


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit of the code, with +changes if the work tree differs; 'unknown' outside of a repository."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return commit + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def expected_faces(config: SearchConfig, tags: Mapping[str, str]) -> dict[Split, str]:
    """The hash that the faces of each split must have on every machine, by the name of the split.

    Args:
        config: of the sweep; if it searches the number of training faces, these are left out.
        tags: recorded when the sweep began.
    """
    splits: tuple[Split, ...] = ("val",) if "data.train_faces" in config.space else ("train", "val")
    known = {split: tags.get(f"data.hash.{split}", "") for split in splits}
    return {split: value for split, value in known.items() if value.startswith(HASH_VERSION)}
