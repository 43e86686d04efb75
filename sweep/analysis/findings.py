"""What reruns show: whether a number comes again, how far it is noise, and what the test split says.

Legend: S seeds (runs of one config), N faces. NME is a fraction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sweep.analysis.rerun_jobs import Job
from sweep.analysis.statistics import difference_interval
from sweep.analysis.sweep_result import SweepResult
from sweep.core.provenance import expected_faces
from sweep.core.trial import TrialRecord
from trainer.data.faults import reasons as fault_reasons
from trainer.landmarks import ATTRIBUTES
from trainer.metric_names import rate_label, rates_in
from trainer.metrics import bootstrap_means, interval, mean
from trainer.run_folder import FACES_FILE, LAST

if TYPE_CHECKING:
    from trainer.data.crops import CropSplit
    from trainer.data.face_table import Split
    from trainer.data.twins import Twins

REPEAT, SEEDS, FINAL = "repeat", "seeds", "final"  # what findings are about
_OF_CLOCKS = ("images_per_second", "epoch_seconds", "memory_gb")  # differ, of course
TEST_FILE = "test_nme.npy"  # in a final run's folder: NME of every test face


@dataclass(frozen=True)
class Finding:
    """Numbers for the sweep's MLflow run, and everything else that report and card need. `text` is for the reader."""

    about: str
    metrics: dict[str, float]
    detail: dict[str, Any]
    text: str


def repeat(sweep: SweepResult, trial: TrialRecord, show: Callable[[Any], None] | None = None) -> Finding:
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
    before = sweep.history_by_trial[trial.number]
    different = [
        e for e, row in again.items() if any(row[k] != before.get(e, {}).get(k) for k in row if k not in _OF_CLOCKS)
    ]
    first = different[0] if different else None
    detail = {
        "trial": trial.number,
        "before": trial.best_nme,
        "again": result.best_nme,
        "identical": result.best_nme == trial.best_nme,
        "first_difference": first,
        "epochs": len(again),
        "config_hash": config.identity(),
    }
    metrics = {"rerun/nme": result.best_nme, "rerun/identical": float(result.best_nme == trial.best_nme)}
    return Finding(REPEAT, metrics, detail, repeat_text(detail))


def repeat_text(detail: Mapping[str, Any]) -> str:
    """Whether the number came again, in words."""
    number, before, again = detail["trial"], detail["before"], detail["again"]
    same = f"trial {number} again: val NME {again:.4%}, identical"
    if detail["identical"] and detail["first_difference"] is None:
        return f"{same}, and so is every loss and metric of {detail['epochs']} epochs"
    if detail["identical"]:
        return f"{same}; other values differ from epoch {detail['first_difference']}"
    return (
        f"trial {number} again: val NME {again!r}, not the {before!r} of the sweep "
        f"(by {(again - before) * 100:+.2g} points); they part at epoch {detail['first_difference']}. The same bits "
        "need the same kind of machine, versions and threads (see the tags of the sweep's MLflow run)"
    )


def seeds(winner: Sequence[Job], runner_up: Sequence[Job]) -> Finding:
    """Mean and spread over seeds of the winner, and whether the runner-up can be told from it.

    The difference is that of pairs (same seed, same face), see `difference_interval`; one seed decides nothing. The
    runs' folders must hold the NME of each validation face.
    """
    first = _errors(winner)
    detail: dict[str, Any] = {"winner": _spread(winner, first), "runner_up": None}
    metrics = {"seeds/nme_mean": detail["winner"]["mean"], "seeds/nme_std": detail["winner"]["std"]}
    if runner_up:
        second = _errors(runner_up)
        low, high = difference_interval(first, second)
        detail["runner_up"] = _spread(runner_up, second)
        detail["difference"] = detail["runner_up"]["mean"] - detail["winner"]["mean"]
        detail["interval"] = [low, high]
        detail["distinguishable"] = bool(len(winner) > 1 and (low > 0 or high < 0))  # one seed cannot tell luck
        metrics |= {"seeds/runner_up_nme_mean": detail["runner_up"]["mean"], "seeds/difference": detail["difference"]}
    return Finding(SEEDS, metrics, detail, seeds_text(detail))


def _spread(jobs: Sequence[Job], errors: NDArray[np.floating]) -> dict[str, Any]:
    """Mean, and standard deviation over seeds, of what each run's best epoch gives on the validation faces."""
    values = [mean(row) for row in errors]
    std = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    used = [job.config.run.seed for job in jobs]
    return {"trial": jobs[0].of.number, "seeds": used, "nme": values, "mean": float(np.mean(values)), "std": std}


def _errors(jobs: Sequence[Job]) -> NDArray[np.floating]:
    """NME of each validation face in each run, (S, N)."""
    return np.stack([np.load(job.folder / FACES_FILE) for job in jobs])


def spread_text(found: Mapping[str, Any]) -> str:
    """Mean and standard deviation, such as '6.70% +- 0.13%'; one seed has no deviation."""
    return f"{found['mean']:.2%}" + (f" +- {found['std']:.2%}" if len(found["seeds"]) > 1 else "")


def seeds_text(detail: Mapping[str, Any]) -> str:
    """What the seeds have shown, in words."""
    a, b = detail["winner"], detail["runner_up"]
    seeds = f"{len(a['seeds'])} other seed{'s' * (len(a['seeds']) != 1)}"
    text = f"trial {a['trial']} with {seeds}: val NME {spread_text(a)}"
    if b is None:
        return f"{text}; there is no other complete trial to compare it with"
    low, high = detail["interval"]
    if not detail["distinguishable"]:
        verdict = "cannot be told from the winner"
    else:
        verdict = "is worse" if low > 0 else "is better than the winner, whose lead was luck"
    return (
        f"{text}; runner-up, trial {b['trial']}: {spread_text(b)}, "
        f"{detail['difference'] * 100:+.2f} points (95 %: {low * 100:+.2f} to {high * 100:+.2f}): it {verdict}"
    )


def read_test(jobs: Sequence[Job], overlap: Twins | None) -> Finding:
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
    device = str(next(model.parameters()).device)
    total = {key: float(np.mean([report[key] for report in reports])) for key in ("nme", *rates_in(reports[0]))}
    each = [report["nme"] for report in reports]
    detail: dict[str, Any] = {
        "trial": jobs[0].of.number,
        "runs": [job.run for job in jobs],
        "seeds": [job.config.run.seed for job in jobs],
        "faces": len(rows[0]),
        **total,
        "nme_of_seeds": each,
        "std": float(np.std(each, ddof=1)) if len(each) > 1 else None,
        "interval": list(interval(bootstrap_means(rows))),
        "subsets": {name: _mean_of(reports, "subsets", name) for name in reports[0]["subsets"]},
        "parts": {part: float(np.mean([r["parts"][part] for r in reports])) for part in reports[0]["parts"]},
        "config_hash": jobs[0].config.identity(),
        "data_hash": split.fingerprint(),
        "overlap": overlap.text(IN_TEST) if overlap else None,
        "skipped": f"{len(split.skipped)} ({fault_reasons(split.skipped)})" if split.skipped else None,
        "threads": config.run.threads,
        "device": device,
    }
    metrics = {f"final/{key}": value for key, value in total.items()}
    metrics |= {f"final/subset/{name}": found["nme"] for name, found in detail["subsets"].items()}
    metrics |= {f"final/part/{part}": value for part, value in detail["parts"].items()}
    return Finding(FINAL, metrics, detail, final_text(detail))


def _mean_of(reports: Sequence[Mapping[str, Any]], group: str, name: str) -> dict[str, float]:
    found = [report[group][name] for report in reports]
    return {key: float(np.mean([of[key] for of in found])) for key in found[0]}


def faces_text(detail: Mapping[str, Any]) -> list[str]:
    """What is to be known about the test faces beside the number; nothing of findings of before it was asked."""
    lines = []
    if skipped := detail.get("skipped"):
        lines.append(f"faulty test faces were left out: {skipped}")
    if overlap := detail.get("overlap"):
        lines.append(f"{overlap}: data.allow_overlap")
    return lines


def final_text(detail: Mapping[str, Any]) -> str:
    """What the test split says, in words and as a table."""
    spread = "" if detail["std"] is None else f" +- {detail['std']:.2%} over {len(detail['seeds'])} seeds"
    low, high = detail["interval"]
    failures, area = rates_in(detail)
    lines = [
        f"trial {detail['trial']}, trained on train + val: test NME {detail['nme']:.2%}{spread} "
        f"(95 %: {low:.2%} to {high:.2%}), {rate_label(failures)} {detail[failures]:.2%}, "
        f"{rate_label(area)} {detail[area]:.4f}, {detail['faces']} faces"
    ]
    lines += faces_text(detail)
    lines += [f"  {name:14} NME {found['nme']:.2%}" for name, found in detail["subsets"].items()]
    lines += [f"  {part:14} NME {value:.2%}" for part, value in detail["parts"].items()]
    return "\n".join(lines)
