"""Where a number comes from: code version, library versions, machine."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("starsweep", "torch", "torchvision", "ray", "optuna", "mlflow", "numpy", "opencv-python-headless")


def provenance() -> dict[str, str]:
    """Tags for the sweep's MLflow run."""
    tags = {f"version.{name}": _version(name) for name in _PACKAGES}
    tags["version.python"] = platform.python_version()
    tags["machine"] = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    tags["git.commit"] = _commit()
    return tags


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit of the code, with +changes where the work tree differs; 'unknown' outside of a repository."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return commit + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
