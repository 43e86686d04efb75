"""What all runs of a sweep share in MLflow, from the first event of its log: searched settings, faces, and source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweep.storage.event_log import identify, read_events

_NOT_SEARCHED = "data.train_faces"  # searched, it gives every trial other faces


@dataclass(frozen=True)
class Faces:
    """The faces of a split, for MLflow's column Dataset.

    Attributes:
        split: train or val.
        name: kind of the annotations, and the split.
        digest: hash of pictures and landmarks.
        source: folder, or "made up" for synthetic ones.
        count: number of faces; None where it was not recorded.
    """

    split: str
    name: str
    digest: str
    source: str
    count: int | None


@dataclass(frozen=True)
class SweepFacts:
    """What all runs of a sweep share.

    Attributes:
        sweep_id: of the log, see `identify`; empty while nothing is logged.
        name: of the sweep.
        started: milliseconds since the epoch.
        space: kind of each searched setting by its key, as in the sweep file: log_uniform, choice, ...
        faces: of train and val, as far as recorded.
        source: tags by which MLflow shows what command, and which commit, a run is from.
    """

    sweep_id: str = ""
    name: str = ""
    started: int = 0
    space: Mapping[str, str] = field(default_factory=dict)
    faces: tuple[Faces, ...] = ()
    source: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, log_path: Path) -> SweepFacts:
        """Reads the first event of a log; raises ValueError as `identify` does."""
        sweep_id, name = identify(log_path)
        if not sweep_id:
            return cls()
        start, _ = next(read_events(log_path))
        tags, config = start.data["tags"], start.data["config"]
        space = {key: _kind(dimension) for key, dimension in config.get("space", {}).items()}
        faces = _faces(tags, config.get("train", {}).get("data", {}), space)
        return cls(sweep_id, name, round(start.time * 1000), space, faces, _source(tags))

    @property
    def logarithmic(self) -> list[str]:
        """Keys of the settings that are searched by their logarithm."""
        return [key for key, kind in self.space.items() if kind.startswith("log_")]

    @property
    def numeric(self) -> list[str]:
        """Keys of the settings that are searched in ranges."""
        return [key for key, kind in self.space.items() if kind != "choice"]


def _kind(dimension: Mapping[str, Any]) -> str:
    return next((key for key in dimension if key != "when"), "")


def _faces(tags: Mapping[str, str], data: Mapping[str, Any], space: Mapping[str, str]) -> tuple[Faces, ...]:
    splits = ["val"] if _NOT_SEARCHED in space else ["train", "val"]
    kind, source = str(data.get("kind", "faces")), str(data.get("root") or "made up")
    found = []
    for split in splits:
        if digest := tags.get(f"data.hash.{split}"):
            count = tags.get(f"faces.{split}", "").partition(" ")[0]
            found.append(Faces(split, f"{kind} {split}", digest, source, int(count) if count.isdigit() else None))
    return tuple(found)


def _source(tags: Mapping[str, str]) -> dict[str, str]:
    known = {"mlflow.source.name": tags.get("command"), "mlflow.source.git.commit": tags.get("git.commit")}
    return {"mlflow.source.type": "LOCAL"} | {key: value for key, value in known.items() if value}
