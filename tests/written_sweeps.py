"""Sweeps on disk that were never run: their events are written as a run would have written them."""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml
from harness import TINY

from sweep.analysis.sweep_result import SweepResult, load
from sweep.core.config import SweepConfig
from sweep.core.config_file import load_sweep
from sweep.search.controller import SweepController
from sweep.search.study import Study
from sweep.storage.event_log import Event, EventKind, EventLog
from trainer import engine
from trainer.config import TrainConfig

LR = {"optim.lr": {"log_uniform": [1e-4, 1e-1]}}
PLANE = {**LR, "loss.star_weight": {"uniform": [0.0, 10.0]}}
MIXED = {**PLANE, "model.head": {"choice": ["pyramid", "deconv"]}}
EPOCH = 10.0  # seconds
Trial = tuple[Mapping[str, object], Sequence[float], str]


def metrics(nme: float, best: float) -> dict[str, float]:
    return {"train/loss": 1.5, "val/nme": nme, "best_nme": best, "images_per_second": 99.0, "epoch_seconds": EPOCH}


def write_sweep(
    output: Path,
    space: Mapping[str, object],
    run: Sequence[Trial],
    /,
    *,
    more: Sequence[Event] = (),
    **settings: object,
) -> SweepResult:
    """A sweep of these trials: parameters, val NME by epoch, and state, which may be RUNNING or INTERRUPTED.

    They run in two slots, the even ones in the first; `more` are events at the end of the log.
    """
    tree: dict = {"name": "told", "space": space, "train": TINY | {"optim": {"epochs": 4, "batch_size": 8}}} | settings
    path = output / f"{tree['name']}.yaml"
    output.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    config = load_sweep(path, {"output": str(output)})
    config.folder.mkdir(exist_ok=True)
    config.dump(config.folder / "sweep.yaml")
    started = {"name": config.name, "tags": {"machine": "<here> & there"}, "config": config.tree()}
    events, free = [Event(EventKind.SWEEP_STARTED, None, started, 1000.0)], [1001.0, 1003.0]
    for number, (params, curve, state) in enumerate(run):
        now = free[number % 2]
        events.append(Event(EventKind.TRIAL_STARTED, number, {"params": params, "config": {}}, now))
        for step, nme in enumerate(curve, 1):
            data = {"step": step, "metrics": metrics(nme, min(curve[:step]))}
            events.append(Event(EventKind.REPORT, number, data, now + EPOCH * step))
        now = free[number % 2] = now + EPOCH * len(curve) + 1
        if state == "INTERRUPTED":
            events.append(Event(EventKind.TRIAL_INTERRUPTED, number, {}, now))
        elif state != "RUNNING":
            end = {"state": state, "reason": None, "best_nme": min(curve, default=None)}
            events.append(Event(EventKind.TRIAL_ENDED, number, end, now))
    ordered = [*sorted(events, key=lambda e: e.time), *more]
    (config.folder / "events.jsonl").write_bytes(b"".join(event.to_line() for event in ordered))
    return load("told" if "name" not in settings else str(settings["name"]), output)


@contextlib.contextmanager
def begun(config: SweepConfig) -> Iterator[SweepController]:
    """A new sweep with its study and event log on disk, whose controller is to be told what its trials do."""
    config.folder.mkdir(parents=True)
    study = Study.open(f"sqlite:///{config.folder / 'study.db'}", config)
    config.dump(config.folder / "sweep.yaml")
    with EventLog(config.folder / "events.jsonl") as log:
        log.append(Event(EventKind.SWEEP_STARTED, None, {"name": config.name, "tags": {}, "config": config.tree()}))
        yield SweepController(config, study, log)


def worth(lr: float, weight: float) -> float:
    """A valley around lr 0.003 and weight 4; lr decides."""
    return 0.05 * math.exp(0.5 * abs(math.log(lr / 3e-3)) + 0.02 * abs(weight - 4))


def some(count: int, seed: int = 0) -> list[Trial]:
    """Trials of PLANE, every third one stopped after two epochs."""
    rng, found = np.random.default_rng(seed), []
    for number in range(count):
        params = {"optim.lr": float(10 ** rng.uniform(-4, -1)), "loss.star_weight": float(rng.uniform(0, 10))}
        curve = [worth(*params.values()) * factor for factor in (2.0, 1.2, 1.5, 1.0)]
        found.append((params, curve[:2], "PRUNED") if number % 3 == 2 else (params, curve, "COMPLETE"))
    return found


def with_head(trials: list[Trial]) -> list[Trial]:
    return [({**p, "model.head": ("pyramid", "deconv")[i % 2]}, c, s) for i, (p, c, s) in enumerate(trials)]


def only(key: str, trials: list[Trial]) -> list[Trial]:
    return [({key: params[key]}, curve, state) for params, curve, state in trials]


ONE = {"optim.lr": 1e-3, "loss.star_weight": 1.0}
LAYERS = {"model.deconv_layers": {"int": [1, 4]}, "optim.batch_size": {"log_int": [4, 64]}}
DECONV = TINY | {"model": TINY["model"] | {"head": "deconv"}, "optim": {"epochs": 4, "batch_size": 8}}
SHAPES: dict[str, tuple[dict, list[Trial], dict]] = {
    "no trial yet": (PLANE, [], {}),
    "one trial": (PLANE, [(ONE, [0.3, 0.2, 0.1, 0.1], "COMPLETE")], {}),
    "two trials": (PLANE, some(2), {}),
    "none complete": (PLANE, [(params, curve[:2], "PRUNED") for params, curve, _ in some(12)], {}),
    "all diverged": (PLANE, [(params, [], "DIVERGED") for params, _, _ in some(12)], {}),
    "all diverged late": (PLANE, [(params, curve[:1], "DIVERGED") for params, curve, _ in some(12)], {}),
    "some running": (PLANE, [*some(10), (ONE, [0.3], "RUNNING"), (ONE, [], "RUNNING")], {}),
    "interrupted": (PLANE, [(params, curve[:2], "INTERRUPTED") for params, curve, _ in some(6)], {}),
    "two hundred": (PLANE, some(200), {}),
    "with a choice": (MIXED, with_head(some(20)), {}),
    "one range": (LR, only("optim.lr", some(12)), {}),
    "one choice": ({"model.head": MIXED["model.head"]}, only("model.head", with_head(some(12))), {}),
    "whole numbers": (
        LAYERS,
        [
            ({"model.deconv_layers": 1 + i % 4, "optim.batch_size": 4 + i}, [0.3, 0.1 + 0.01 * i], "COMPLETE")
            for i in range(12)
        ],
        {"train": DECONV},
    ),
    "all the same": (PLANE, [(ONE, [0.1, 0.1], "COMPLETE")] * 12, {}),
}
SPEED, FAILURES = "images_per_second", "fr10"
TWO = [  # NME, second objective, state
    (0.05, 100.0, "COMPLETE"),
    (0.06, 300.0, "COMPLETE"),
    (0.07, 200.0, "COMPLETE"),  # trial 1 is better in both
    (0.08, 400.0, "COMPLETE"),
    (0.04, 900.0, "PRUNED"),
    (0.09, 50.0, "INFEASIBLE"),
]


def write_two_objectives(
    output: Path, objective: str, found: Sequence[tuple[float, float, str]], **settings
) -> SweepResult:
    """A sweep of trials with this NME and second objective after their second epoch, both worse after the first."""
    key = {SPEED: SPEED, FAILURES: "val/fr10"}[objective]
    more = []
    for number, (nme, second, state) in enumerate(found):
        params = {"optim.lr": 1e-3 * (number + 1), "loss.star_weight": 1.0}
        more.append(Event(EventKind.TRIAL_STARTED, number, {"params": params, "config": {}}, 2000 + number))
        for step, factor in ((1, 2.0), (2, 1.0)):
            told = metrics(nme * factor, nme * factor) | {key: second / 2 if step == 1 else second}
            more.append(Event(EventKind.REPORT, number, {"step": step, "metrics": told}, 2000 + number))
        end = {"state": state, "reason": None, "best_nme": nme}
        more.append(Event(EventKind.TRIAL_ENDED, number, end, 2000 + number))
    return write_sweep(output, PLANE, [], more=more, objectives=["nme", objective], **settings)


PARAMS = {"optim.lr": 2e-3, "loss.star_weight": 1.5}


def write_trained(output: Path, params: dict = PARAMS) -> SweepResult:
    """A sweep of which only the winner, trial 0, was really trained."""
    folder = output / "told" / "trials" / "0000"
    tree = TINY | {
        "optim": {"epochs": 2, "batch_size": 8},
        "run": TINY["run"] | {"threads": 1},
    }
    cache = {"data.cache_dir": str(output / "cache")}
    result = engine.train(TrainConfig.from_tree(tree).replace({**params, **cache, "run.output": str(folder)}))
    curve = [json.loads(line)["val/nme"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert min(curve) == result.best_nme
    others = [({**p, "optim.lr": 1e-2}, [9.0], "PRUNED") for p, *_ in some(2)] + [(PARAMS, [], "DIVERGED")]
    return write_sweep(output, PLANE, [(params, curve, "COMPLETE"), *others], train=tree)


def note(sweep: SweepResult, *events: Event) -> SweepResult:
    with EventLog(sweep.folder / "events.jsonl") as log:
        for event in events:
            log.append(event)
    return load(sweep.folder)


def final(seeds: Sequence[int] = (0, 1), **more: object) -> Event:
    detail: dict[str, object] = {
        "trial": 0,
        "runs": [f"final-0000-{seed}" for seed in seeds],
        "seeds": list(seeds),
        "faces": 300,
        "nme": 0.0671,
        "fr10": 0.12,
        "auc10": 0.37256,
        "nme_of_seeds": [0.0661, 0.068][: len(seeds)],
        "std": 0.0013 if len(seeds) > 1 else None,
        "interval": [0.0632, 0.0714],
        "subsets": {
            "pose": {"nme": 0.11, "fr10": 0.43331, "auc10": 0.12, "faces": 45.0},
            "blur": {"nme": 0.0644, "fr10": 0.11, "auc10": 0.4, "faces": 72.0},
        },
        "parts": {"nose": 0.0586, "right_eye": 0.0547},
        "config_hash": "0123456789abcdef",
        "data_hash": "fedcba9876543210",
        "threads": 1,
        "device": "cpu",
        "provenance": {"machine": "another machine"},
    }
    return Event(EventKind.FINDING, None, {"about": "final", "metrics": {}, "detail": detail | more})


def read(reading: int) -> Event:
    return Event(EventKind.TEST_READ, None, {"reading": reading, "networks": 2})
