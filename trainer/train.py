"""python -m trainer.train CONFIG.yaml [--optim.lr 1e-3 ...]: trains one configuration, standalone.

One run on several GPUs: torchrun --nproc-per-node 2 -m trainer.train CONFIG.yaml ...
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from trainer.config import TrainConfig
from trainer.cores import lone_of_many, processes
from trainer.errors import CheckpointError, ConfigError, DataError, ModelError, NonFiniteError
from trainer.forms import choose, form_of, is_open, slow_warning
from trainer.pulse import Pulse
from trainer.run_folder import CONFIG_FILE, LAST
from trainer.settings import ArgumentParser
from trainer.user_folders import check_output

if TYPE_CHECKING:
    from trainer.data.crops import CropSplit
    from trainer.data.face_table import Split
    from trainer.engine import EpochResult

_REDRAWN = 0.5  # seconds, of the line that changes
_LINE_ANEW = "\r\x1b[K"  # to its beginning, and empty


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog="python -m trainer.train", description=__doc__.splitlines()[0])
    parser.add_argument("config", nargs="?", metavar="CONFIG.yaml", help="settings; without it, the defaults")
    parser.add_argument("--resume", metavar="RUN_DIR", help="go on with the run in this folder, with the config it has")
    parser.add_settings(TrainConfig)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    with _one_voice():
        return _main(argv)


def _main(argv: Sequence[str] | None) -> int:
    parser = build_parser()
    arguments = parser.parse(argv)
    overrides = parser.overrides(arguments)
    if alone := lone_of_many():
        print(alone, file=sys.stderr)
    try:
        if processes() == 1:
            return _train(*_prepare(arguments.config, arguments.resume, overrides))
        from trainer.runtime import distributed  # imports torch

        with distributed.process_group():  # rank 0 reads, and chooses the folder
            chosen = distributed.rank_zero_result(lambda: _prepare(arguments.config, arguments.resume, overrides))
            return _train(*chosen)
    except ConfigError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print("\ninterrupted; go on with --resume and the run folder", file=sys.stderr)
        return 130


@contextlib.contextmanager
def _one_voice() -> Iterator[None]:
    """Silences all processes of a run but the first; an error that nothing expects still shows its traceback."""
    if processes() == 1 or os.environ.get("RANK", "0") == "0":
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def _prepare(path: str | None, resume: str | None, overrides: dict[str, str]) -> tuple[TrainConfig, Path | None]:
    """The config to train and the checkpoint to go on from."""
    if resume is not None:
        if path is not None or overrides:
            raise ConfigError("--resume: goes on with the config of its folder; no other setting may be given")
        folder = Path(resume)
        config = TrainConfig.load(folder / CONFIG_FILE).replace({"run.output": str(folder)})
        last = folder / LAST
        return config, last if last.exists() else None
    config = TrainConfig.load(path, overrides)
    folder = Path(config.run.output or _free_folder(Path("runs"), Path(path or "default").stem))
    if (folder / LAST).exists():
        raise ConfigError(
            f"run.output = {str(folder)!r}: already holds a run (go on with it: --resume {folder}; "
            f"or name another folder)"
        )
    check_output(folder, "run.output")
    return config.replace({"run.output": str(folder)}), None


def _free_folder(parent: Path, name: str) -> Path:
    """parent/name, or parent/name-2 and so on where that exists."""
    number, folder = 1, parent / name
    while folder.exists():
        number += 1
        folder = parent / f"{name}-{number}"
    return folder


def _train(config: TrainConfig, checkpoint: Path | None) -> int:
    from trainer import engine  # imports torch: --help and a bad setting need not wait for it
    from trainer.data.survey import survey

    display = _Display(config.optim.epochs)

    def inspect(crops: Mapping[Split, CropSplit]) -> None:
        for line in survey(config.data, crops).warnings():
            display.say(line)

    try:
        config = _in_its_form(config)
        with display.pulse:
            result = engine.train(
                config, report=display.report, progress=display.progress, inspect=inspect, resume_from=checkpoint
            )
    except (DataError, CheckpointError, ModelError, NonFiniteError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    best = f"best val NME {result.best_nme:.4%}" if config.data.train_on == "train" else "trained on train+val"
    print(f"{best} (epoch {result.best_epoch} of {result.epochs})  {result.folder}")
    return 0


def _in_its_form(config: TrainConfig) -> TrainConfig:
    """The config with the form in which it is computed here, which is said; of several processes, the first decides."""
    if processes() > 1:
        return config
    from trainer.form_speed import speeds_here

    config = config.with_threads()
    speeds = speeds_here(config)  # once: those of a busy machine are not kept
    if is_open(config):
        config = choose(config, {"this machine": speeds})
        form = form_of(config)
        rate = f"{speeds.rates[form]:.1f} images/s, " if speeds.measured else ""
        print(f"computed in {form}: {rate}{speeds.source}", file=sys.stderr)
    elif text := slow_warning(config, speeds):
        print(text, file=sys.stderr)
    return config


class _Display:
    """What a run shows: a line an epoch, with the time that is left, and within it how far it has come: on a terminal
    in a last line that changes, elsewhere in a line every half minute."""

    def __init__(self, epochs: int) -> None:
        self._epochs, self._live = epochs, sys.stderr.isatty()
        self._seconds: list[float] = []  # of epochs
        self._now: tuple[int, float] | None = None  # epoch, share of it
        self._first = (0.0, 0.0)  # share and time of the first batch, which is slower than others
        self._drawn = 0.0
        self.pulse = Pulse(self.say, self._state)

    def progress(self, epoch: int, share: float) -> None:
        """Takes in how much of an epoch is done."""
        now = time.monotonic()
        if self._now is None:
            self._first = share, now
        self._now = epoch, share
        if self._live and now - self._drawn >= _REDRAWN:
            self._drawn = now
            print(f"{_LINE_ANEW}{self._state()}", end="", file=sys.stderr, flush=True)
            self.pulse.rest()

    def report(self, result: EpochResult) -> None:
        """Takes in an epoch."""
        epoch, row = result.epoch, result.metrics
        self._seconds.append(row["epoch_seconds"])
        self._now = epoch + 1, 0.0
        measured = f"val NME {row['val/nme']:7.3%}  best {row['best_nme']:7.3%}  " if "val/nme" in row else ""
        self.say(
            f"epoch {epoch:3d}/{self._epochs}  loss {row['train/loss']:8.4f}  {measured}"
            f"{row['images_per_second']:6.1f} images/s  {self._left()}"
        )
        self.pulse.rest()

    def say(self, line: str) -> None:
        """Shows a line that stays."""
        print(f"{_LINE_ANEW if self._live else ''}{line}", file=sys.stderr, flush=True)

    def _state(self) -> str:
        if self._now is None:
            return "preparing faces and network"
        epoch, share = self._now
        return f"epoch {min(epoch, self._epochs):3d}/{self._epochs}  {share:4.0%}  {self._left()}"

    def _left(self) -> str:
        assert self._now is not None, "nothing has run yet"
        epoch, share = self._now
        first, began = self._first
        if self._seconds:
            each = fmean(self._seconds[-5:])
        elif share > first:
            each = (time.monotonic() - began) / (share - first)
        else:
            return ""
        return f"{time.strftime('%H:%M:%S', time.gmtime((self._epochs + 1 - epoch - share) * each))} left"


if __name__ == "__main__":
    sys.exit(main())
