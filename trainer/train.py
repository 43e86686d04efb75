"""python -m trainer.train CONFIG.yaml [--optim.lr 1e-3 ...]: trains one configuration, standalone.

One run on several GPUs: torchrun --nproc-per-node 2 -m trainer.train CONFIG.yaml ...
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainer.config import TrainConfig
from trainer.cores import processes
from trainer.errors import CheckpointError, ConfigError, DataError, ModelError, NonFiniteError
from trainer.forms import form_of, is_open, slow_warning
from trainer.run_folder import CONFIG_FILE, LAST
from trainer.settings import ArgumentParser


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
    try:
        if processes() == 1:
            return _train(*_prepare(arguments.config, arguments.resume, overrides))
        from trainer.runtime import distributed  # imports torch

        with distributed.joined():  # rank 0 reads, and chooses the folder
            chosen = distributed.on_first(lambda: _prepare(arguments.config, arguments.resume, overrides))
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
    if config.run.output is None:
        return config.replace({"run.output": str(_free_folder(Path("runs"), Path(path or "default").stem))}), None
    if (Path(config.run.output) / LAST).exists():
        raise ConfigError(
            f"run.output = {config.run.output!r}: already holds a run (go on with it: --resume {config.run.output}; "
            f"or name another folder)"
        )
    return config, None


def _free_folder(parent: Path, name: str) -> Path:
    """parent/name, or parent/name-2 and so on where that exists."""
    number, folder = 1, parent / name
    while folder.exists():
        number += 1
        folder = parent / f"{name}-{number}"
    return folder


def _train(config: TrainConfig, checkpoint: Path | None) -> int:
    from trainer import engine  # imports torch: --help and a bad setting need not wait for it

    show = _Progress(config.optim.epochs) if sys.stderr.isatty() else None
    try:
        config = _in_its_form(config)
        result = engine.train(config, report=show, resume_from=checkpoint)
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
    from trainer.form_speed import resolve, speeds_here

    chosen = resolve(config)
    speeds, form = speeds_here(chosen), form_of(chosen)
    if is_open(config):
        rate = f"{speeds.rates[form]:.1f} images/s, " if speeds.measured else ""
        print(f"computed in {form}: {rate}{speeds.source}", file=sys.stderr)
    elif text := slow_warning(chosen, speeds):
        print(text, file=sys.stderr)
    return chosen


class _Progress:
    """One line an epoch, with the time that is left."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._seconds: list[float] = []

    def __call__(self, result: object) -> None:
        epoch, row = result.epoch, result.metrics  # type: ignore[attr-defined]
        self._seconds.append(row["epoch_seconds"])
        left = (self._epochs - epoch) * sum(self._seconds[-5:]) / len(self._seconds[-5:])
        measured = f"val NME {row['val/nme']:7.3%}  best {row['best_nme']:7.3%}  " if "val/nme" in row else ""
        print(
            f"epoch {epoch:3d}/{self._epochs}  loss {row['train/loss']:8.4f}  {measured}"
            f"{row['images_per_second']:6.1f} images/s  {time.strftime('%H:%M:%S', time.gmtime(left))} left",
            file=sys.stderr,
        )


if __name__ == "__main__":
    sys.exit(main())
