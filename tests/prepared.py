"""What every start on a new machine does anew, done once for all tests: the speeds of networks, MLflow's tables.

Both take seconds of both cores. `python -m trainer.form_speed` keeps nothing that it measured on a busy machine, and
where tests run the machine is always busy.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from unittest import mock

from filelock import FileLock

from sweep.core.config_file import load_sweep
from sweep.run import build_parser
from sweep.tracking.mlflow_client import connect
from trainer.config import TrainConfig
from trainer.errors import ConfigError
from trainer.forms import ON_CPU, Form, FormSpeeds, remember

_FOLDER = Path(tempfile.gettempdir()) / f"starsweep-tests-{os.getuid()}"
_FORMS = _FOLDER / "forms"
_EMPTY_STORE = _FOLDER / f"mlflow-{version('mlflow')}.db"
QUICK = Form("float32", channels_last=True)


def share_speeds(cache: Path) -> None:
    """Has a machine with this cache folder know what all others do of the speeds of networks."""
    _FORMS.mkdir(parents=True, exist_ok=True)
    (cache / "starsweep").mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (cache / "starsweep" / "forms").symlink_to(_FORMS)


def taught(quick: Form = QUICK) -> FormSpeeds:
    """Of a machine that is five times faster in one form than in the others."""
    return FormSpeeds({form: 50.0 if form == quick else 10.0 for form in ON_CPU}, "taught")


def teach(config: TrainConfig, cache: Path, quick: Form = QUICK) -> None:
    """Has a machine with this cache folder know these speeds."""
    with mock.patch.dict(os.environ, XDG_CACHE_HOME=str(cache)):
        remember(config, taught(quick))


def teach_sweep(words: Iterable[str], cache: Path) -> None:
    """The same for the network of a sweep, by the words after `python -m sweep.run`; not if they are refused."""
    parser = build_parser()
    with contextlib.suppress(ConfigError, SystemExit):
        arguments = parser.parse(list(words))
        teach(load_sweep(arguments.sweep, parser.overrides(arguments)).train, cache)


def copy_empty_store(database: Path) -> None:
    """Puts a store of MLflow without runs there, if there is none."""
    _FOLDER.mkdir(exist_ok=True)
    with FileLock(_EMPTY_STORE.with_suffix(".lock")):
        if not _EMPTY_STORE.exists():
            connect(f"sqlite:///{_EMPTY_STORE}").search_experiments()
    if not database.exists():
        database.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(_EMPTY_STORE, database)
