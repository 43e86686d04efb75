"""Warm start: tries the best configurations of earlier sweeps first (Feurer et al., AAAI 2015).

Their NMEs are not used: those of other faces, sizes or epochs are not comparable.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from sweep.analysis.sweep_result import SweepResult, load
from sweep.core.config import SearchConfig
from sweep.core.config_file import load_sweep
from sweep.core.search_space import active, check_params
from sweep.core.trial import Params
from sweep.search.replicates import runs_by_config
from sweep.storage.sweep_folder import CONFIG_FILE, EVENTS_FILE, find_sweep
from trainer import settings
from trainer.errors import ConfigError

C = TypeVar("C", bound=SearchConfig)

_BEST = 3  # configurations of each earlier sweep


def warmed(config: C) -> C:
    """The sweep with the best configurations of the sweeps in `warm_start` added to its known ones.

    A sweep that has started keeps the ones it started with, even if the earlier sweeps were continued since.

    Raises:
        ConfigError: there is no such sweep, or nothing of it fits.
    """
    if not config.warm_start:
        return config
    if (config.folder / EVENTS_FILE).exists():
        begun = load_sweep(config.folder / CONFIG_FILE, {}, written=True)
        known = begun.known if begun.warm_start == config.warm_start else config.known
    else:
        known = list(config.known)
        for name in config.warm_start:
            found = _best_of(load(find_sweep(name, Path(config.output))), config)
            known += [params for params in found if params not in known]
    return settings.build(type(config), config.model_dump(mode="json") | {"known": known}, config.name)


def _best_of(earlier: SweepResult, config: SearchConfig) -> list[Params]:
    """The best configurations of an earlier sweep, best first, without parameters that this one does not search."""
    found: list[Params] = []
    refusal = "no complete trial"
    for contender in runs_by_config(earlier.records.values()):
        searched = {d.key: contender.trial.params[d.key] for d in config.dimensions if d.key in contender.trial.params}
        params = active(config.dimensions, searched)
        try:
            if not params:
                raise ConfigError("none of its parameters is searched here")
            check_params(params, config.dimensions, config.train, f"trial {contender.trial.number}")
        except ConfigError as error:
            refusal = str(error)
            continue
        if params not in found:
            found.append(params)
    if not found:
        raise ConfigError(f"warm_start: {earlier.name}: nothing of it fits this sweep ({refusal})")
    return found[:_BEST]
