"""The words of a report: notes beside the figures, what reruns have shown, what makes sweeps incomparable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sweep.analysis.statistics import likely_difference
from sweep.analysis.sweep_result import SweepResult
from sweep.core.formatting import format_params
from sweep.core.trial import State
from trainer.data.survey import NO_WARNING

SURFACE = (
    "Colours: a surface through the trials that have an NME; further parameters stand at the winner's values. Stopped "
    "trials count with what they had reached."
)
FRONT = "The line joins the complete trials that no other beats in both."
PARALLEL = "All trials that have an NME; drag along an axis to choose among them."
IMPORTANCE = (
    "Which parameter decides whether a trial is among the best tenth (PED-ANOVA). Lines: 80 % of resampled trials. "
    "Wide lines mean that these trials cannot tell."
)
CURVES = "Triangles end trials that were stopped early, crosses those that diverged or failed."
CED = "On the validation faces, at the best epoch of each trial; dotted: configurations that were known before."
HISTORY = (
    "Random search is simulated, not run: 200 times, every trial trained to its end and worth what the surface above "
    "says there. That holds stopped trials at what they had reached, so random search looks worse than it is; to know, "
    "run it: --name random --sampler.name random --pruner.name none, then sweep.report with both names."
)
PARTS = "The winner on the validation faces; after sweep.rerun --final also the final model on the test faces."
STRIP = "Each dot is a trial at its best NME."
WORST = "Validation faces. Green: predicted; ellipses: standard deviation of the heatmap; red: to the truth."
TOO_LITTLE = "There is too little to draw this: it takes more trials, ranges to search, or the winner's weights."


def evidence_lines(sweep: SweepResult) -> list[str]:
    """What reruns have shown, and the seed noise beside the differences between trials."""
    found, lines = sweep.findings, list[str]()
    if (warnings := sweep.tags.get("faces.warnings", NO_WARNING)) != NO_WARNING:
        lines.append(f"Faces: {warnings}.")
    readings = sweep.test_readings
    counted = f"he test split was read {readings} time{'s' * (readings != 1)}"
    if found.reproduction is not None:
        lines.append(found.reproduction.text)
    lines.append(noise_text(sweep))
    if found.final_test is not None:
        lines.append(f"{found.final_test.summary}. T{counted}.")
    elif readings:
        lines.append(f"Test: t{counted}, but no number came of it.")
    else:
        lines.append(f"Test: not read. Once, at the end:  python -m sweep.rerun {sweep.name} --final")
    return lines


def noise_text(sweep: SweepResult) -> str:
    """The seed noise, and how many trials lie within it; or how to measure it."""
    found = sweep.findings.seed_study
    if found is None:
        return (
            "Seed noise: not measured, so small differences between trials may mean nothing. Measure it:  "
            f"python -m sweep.rerun {sweep.name} --seeds 5"
        )
    winner, best, text = found.winner, sweep.best, found.text
    if best is None or best.best_nme is None or winner.trial != best.number or not winner.std > 0:
        return text
    noise = likely_difference(winner.std, len(winner.seeds))
    others = [r for r in sweep.records.values() if r.state is State.COMPLETE and r.number != best.number]
    near = [r for r in others if r.best_nme is not None and r.best_nme - best.best_nme < noise]
    return (
        f"{text}.\nSeed noise: {winner.std * 100:.2f} points (standard deviation of {len(winner.seeds)} seeds); "
        f"two runs of one config differ by less than {noise * 100:.2f} points 19 times in 20 (Student's t). "
        f"{len(near)} of {len(others)} other complete trials lie so near to the winner."
    )


def comparison_row(sweep: SweepResult) -> list[str]:
    """A sweep in the table that puts several side by side."""
    train, best = sweep.config.train, sweep.best
    seeds, final = sweep.findings.seed_study, sweep.findings.final_test
    return [
        sweep.name,
        train.loss.name,
        train.model.head,
        str(len(sweep.records)),
        str(sweep.epochs_spent),
        f"{sweep.trial_hours:.2f}",
        "-" if best is None or best.best_nme is None else f"{best.best_nme:.2%}",
        "-" if seeds is None else seeds.winner.text,
        "-" if final is None else f"{final.nme:.2%}",
        "-" if best is None else format_params(best.params),
    ]


def unequal(sweeps: Sequence[SweepResult]) -> list[str]:
    """What makes these sweeps incomparable."""
    compared: dict[str, list[Any]] = {
        "data": [s.config.train.data.model_dump_json(exclude={"cache_dir", "workers", "augment"}) for s in sweeps],
        "epochs a trial": [s.config.train.optim.epochs for s in sweeps],
        "trials": [s.config.trials for s in sweeps],
        "backbone": [s.config.train.model.backbone for s in sweeps],
    }
    return [name for name, values in compared.items() if len(set(values)) > 1]
