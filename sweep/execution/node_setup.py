"""Prepares every machine before the first trial: crop cache, access to files, versions, speed.

`prepare_nodes` runs in the driver, `prepare_node` on each machine.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from sweep.core.sections import ExecutionConfig
from sweep.execution.resources import fitting
from sweep.storage.remote_files import Storage
from trainer.config import TrainConfig
from trainer.errors import ConfigError, DataError, ModelError
from trainer.forms import FormSpeeds, epoch_pictures, form_of

if TYPE_CHECKING:
    from trainer.data.survey import Survey

logger = logging.getLogger(__name__)

_OVERHEAD = 1.25  # of an epoch over its passes alone: faces, loss, step, other trials on the machine
_NUMERIC_PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless")  # that results depend on


@dataclass(frozen=True)
class Readiness:
    """Faces and speeds of the machines that train.

    Attributes:
        survey: of the training and validation faces.
        speeds: of each machine by its name.
    """

    survey: Survey | None = None
    speeds: dict[str, FormSpeeds] = field(default_factory=dict)

    @property
    def hashes(self) -> dict[str, str]:
        """Of the faces, by tag."""
        return self.survey.hashes if self.survey else {}

    def epoch_seconds(self, config: TrainConfig) -> float | None:
        """Estimated duration of an epoch, from the measured speeds of the network; None if they were not measured."""
        if self.survey is None:
            return None
        known = [speeds.rates.get(form_of(config)) for speeds in self.speeds.values() if speeds.measured]
        rates = [rate for rate in known if rate]
        faces = (self.survey.splits[name].faces for name in ("train", "val"))
        return _OVERHEAD * epoch_pictures(config, *faces) / fmean(rates) if rates else None


@dataclass(frozen=True)
class NodeReport:
    """Result of `prepare_node`: versions by name, faces and speeds, or only the error."""

    versions: dict[str, str] = field(default_factory=dict)
    ready: Readiness = field(default_factory=Readiness)
    speeds: FormSpeeds | None = None
    error: str = ""


def prepare_node(tree: dict[str, object], storage: Storage | None, probe: Path) -> NodeReport:
    """Builds this machine's crop cache, checks its access to files and weights, and measures the network's speed.

    Args:
        tree: of the sweep's base config.
        storage: where trials put their files; None: into the sweep's folder, which this machine must see.
        probe: a file in that folder.
    """
    from trainer.form_speed import speeds_here

    config = TrainConfig.from_tree(tree)
    versions = {f"version.{name}": version(name) for name in _NUMERIC_PACKAGES}
    try:
        if storage is not None:
            storage.check()
        elif not probe.exists():
            where = f"does not see {probe.parent}"
            return NodeReport(error=f"{where}: give output a folder that all machines see, or set storage")
        return NodeReport(versions, prepare_faces(config), speeds_here(config))
    except (ConfigError, DataError, ModelError, OSError) as error:
        return NodeReport(error=str(error))


def prepare_faces(config: TrainConfig) -> Readiness:
    """Builds this machine's crop cache and loads the pretrained weights once, so that no trial has to wait for them.

    Raises:
        DataError, ModelError: faces or weights are missing or faulty.
    """
    from trainer.data.crop_cache import load_splits
    from trainer.data.survey import survey

    found = survey(config.data, load_splits(config))
    if config.model.pretrained != "none":
        from trainer.model import build_model

        build_model(config)
    return Readiness(found)


def prepare_nodes(config: ExecutionConfig, train: TrainConfig, storage: Storage | None) -> Readiness:
    """Runs `prepare_node` on every machine that can hold a trial.

    Raises:
        ConfigError: with the machine on which something is missing, or which has other faces.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from sweep.execution.ray_session import machines

    probe = config.folder / f".seen-{uuid.uuid4().hex[:8]}"
    probe.touch()
    task = ray.remote(max_calls=1)(prepare_node)  # so that torch does not stay in an idle process
    nodes = [node for node, cpus, gpus in machines() if fitting(config.resources, cpus, gpus)]
    try:
        asked = [
            task.options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(train.tree(), storage, probe)
            for node in nodes
        ]
        found = ray.get(asked)
    finally:
        probe.unlink(missing_ok=True)
    for node, answer in zip(nodes, found, strict=True):
        if answer.error:
            raise ConfigError(f"machine {node['NodeManagerAddress']}: {answer.error}")
        facts = answer.versions | answer.ready.hashes
        expected = found[0].versions | found[0].ready.hashes
        if changed := [key for key, value in facts.items() if expected.get(key) != value]:
            names = f"{nodes[0]['NodeManagerAddress']} and {node['NodeManagerAddress']}"
            if any(key.startswith("data.") for key in changed):
                raise ConfigError(f"machines {names} have different faces ({', '.join(changed)})")
            logger.warning("machines %s differ in %s: numbers may differ in their last digits", names, changed)
    if not found:
        return Readiness()
    speeds = {str(node["NodeManagerAddress"]): answer.speeds for node, answer in zip(nodes, found, strict=True)}
    return replace(found[0].ready, speeds={name: known for name, known in speeds.items() if known})
