"""Evaluates reruns: is a trial reproduced, how much do seeds differ, what is the NME on the test split?

Legend: S seeds (runs of one config), N faces. NME is a fraction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sweep.analysis.findings import FinalTest, Reproduction, SeedRuns, SeedStudy
from sweep.analysis.rerun_jobs import Job
from sweep.analysis.statistics import difference_interval
from sweep.analysis.sweep_result import SweepResult
from sweep.core.provenance import expected_faces
from sweep.core.trial import TrialRecord
from trainer.data.faults import reasons as fault_reasons
from trainer.landmarks import ATTRIBUTES
from trainer.metric_names import rates_in
from trainer.metrics import bootstrap_means, interval, mean
from trainer.run_folder import FACES_FILE, LAST

if TYPE_CHECKING:
    from trainer.data.crops import CropSplit
    from trainer.data.face_table import Split
    from trainer.data.twins import Twins

_TIMING_METRICS = ("images_per_second", "epoch_seconds", "memory_gb")  # never the same twice
TEST_FILE = "test_nme.npy"  # in a final run's folder: NME of every test face


def reproduce(sweep: SweepResult, trial: TrialRecord, show: Callable[[Any], None] | None = None) -> Reproduction:
    """Trains a trial's config again in this process, without Ray, and compares every epoch with what it was.

    Raises:
        ConfigError, DataError, ModelError, DiskFullError, NonFiniteError: as the trainer does.
    """
    from trainer import engine
    from trainer.data.survey import require_faces

    folder = sweep.config.rerun_folder(f"repeat-{trial.number:04d}")
    last = folder / LAST
    config = sweep.config.best_config(trial.params).replace({"run.output": str(folder)})
    again: dict[int, dict[str, float]] = {}

    def collect(epoch: engine.EpochResult) -> None:
        again[epoch.epoch] = epoch.metrics
        if show is not None:
            show(epoch)

    def inspect(crops: Mapping[Split, CropSplit]) -> None:
        require_faces(config, crops, expected_faces(sweep.config, sweep.tags))

    result = engine.train(config, report=collect, inspect=inspect, resume_from=last if last.exists() else None)
    last.unlink(missing_ok=True)
    history = sweep.history_by_trial[trial.number]
    different = [epoch for epoch, row in again.items() if not _same(row, history.get(epoch, {}))]
    first = different[0] if different else None
    before = math.nan if trial.best_nme is None else trial.best_nme
    identical = result.best_nme == before
    return Reproduction(trial.number, before, result.best_nme, identical, first, len(again), config.identity())


def _same(row: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Whether all metrics of an epoch are equal, but for those of time and memory."""
    return all(row[key] == other.get(key) for key in row if key not in _TIMING_METRICS)


def compare_seeds(winner: Sequence[Job], runner_up: Sequence[Job]) -> SeedStudy:
    """Mean and spread over seeds of the winner, and whether the runner-up can be told from it.

    The difference is that of pairs (same seed, same face), see `difference_interval`; one seed decides nothing. The
    runs' folders must hold the NME of each validation face.
    """
    first = _errors(winner)
    runs = _seed_runs(winner, first)
    if not runner_up:
        return SeedStudy(runs)
    second = _errors(runner_up)
    other = _seed_runs(runner_up, second)
    low, high = difference_interval(first, second)
    distinguishable = bool(len(winner) > 1 and (low > 0 or high < 0))  # from one seed, luck cannot be known
    return SeedStudy(runs, other, other.mean - runs.mean, [low, high], distinguishable)


def _seed_runs(jobs: Sequence[Job], errors: NDArray[np.floating]) -> SeedRuns:
    """Mean, and standard deviation over seeds, of the NME of each run's best epoch on the validation faces."""
    values = [mean(row) for row in errors]
    std = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return SeedRuns(jobs[0].of.number, [job.config.run.seed for job in jobs], values, float(np.mean(values)), std)


def _errors(jobs: Sequence[Job]) -> NDArray[np.floating]:
    """NME of each validation face in each run, (S, N)."""
    return np.stack([np.load(job.folder / FACES_FILE) for job in jobs])


def read_test(jobs: Sequence[Job], overlap: Twins | None) -> FinalTest:
    """Measures final networks on the test split: the one place in a sweep that reads it.

    Args:
        jobs: the networks, trained.
        overlap: pictures of the test split that they were trained on, as far as that is known.

    Raises:
        DataError, CheckpointError: as the trainer does.
    """
    from trainer.data.crop_cache import load_split
    from trainer.data.survey import IN_TEST
    from trainer.evaluation import evaluate
    from trainer.inference import load_trained

    reports, errors = [], []
    for job in jobs:
        config, model = load_trained(job.folder)
        split = load_split(config.data, "test")
        evaluation = evaluate(model, split, config)
        reports.append(evaluation.report(ATTRIBUTES))
        errors.append(evaluation.nme)
        np.save(job.folder / TEST_FILE, evaluation.nme)
    rows = np.stack(errors)
    each = [report["nme"] for report in reports]
    return FinalTest(
        trial=jobs[0].of.number,
        runs=[job.run for job in jobs],
        seeds=[job.config.run.seed for job in jobs],
        faces=len(rows[0]),
        nme=float(np.mean(each)),
        rates={key: float(np.mean([report[key] for report in reports])) for key in rates_in(reports[0])},
        nme_of_seeds=each,
        std=float(np.std(each, ddof=1)) if len(each) > 1 else None,
        interval=list(interval(bootstrap_means(rows))),
        subsets={name: _mean_of(reports, "subsets", name) for name in reports[0]["subsets"]},
        parts={part: float(np.mean([r["parts"][part] for r in reports])) for part in reports[0]["parts"]},
        config_hash=jobs[0].config.identity(),
        data_hash=split.fingerprint(),
        overlap=overlap.text(IN_TEST) if overlap else None,
        skipped=f"{len(split.skipped)} ({fault_reasons(split.skipped)})" if split.skipped else None,
        threads=config.run.threads,
        device=str(next(model.parameters()).device),
    )


def _mean_of(reports: Sequence[Mapping[str, Any]], group: str, name: str) -> dict[str, float]:
    found = [report[group][name] for report in reports]
    return {key: float(np.mean([of[key] for of in found])) for key in found[0]}
