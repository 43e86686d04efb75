"""What reruns have shown, as the event log holds it: reproduction, noise between seeds, NME on the test split.

NMEs are fractions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Self

from trainer.metric_names import rate_label, rates_in


def _known(cls: type, detail: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass among those of the log, where other versions may have written more."""
    return {f.name: detail[f.name] for f in fields(cls) if f.name in detail}


@dataclass(frozen=True)
class Reproduction:
    """A complete trial trained again with the same config and seed.

    Attributes:
        trial: its number.
        before: its best validation NME in the sweep.
        again: that of the rerun.
        identical: whether both are the same to the last bit.
        first_difference: the first epoch with another loss or metric; None if all are the same.
        epochs: compared.
        config_hash: of the config.
        provenance: versions, commit and machine of the rerun.
    """

    about: ClassVar[str] = "repeat"
    trial: int
    before: float
    again: float
    identical: bool
    first_difference: int | None
    epochs: int
    config_hash: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_detail(cls, detail: Mapping[str, Any]) -> Self:
        return cls(**_known(cls, detail))

    def detail(self) -> dict[str, Any]:
        """The fields as the event log holds them."""
        return asdict(self)

    @property
    def metrics(self) -> dict[str, float]:
        """Numbers for the sweep's MLflow run."""
        return {"rerun/nme": self.again, "rerun/identical": float(self.identical)}

    @property
    def text(self) -> str:
        """Whether the NME was reproduced, in words."""
        same = f"trial {self.trial} again: val NME {self.again:.4%}, identical"
        if self.identical and self.first_difference is None:
            return f"{same}, and so is every loss and metric of {self.epochs} epochs"
        if self.identical:
            return f"{same}; other values differ from epoch {self.first_difference}"
        return (
            f"trial {self.trial} again: val NME {self.again!r}, not the {self.before!r} of the sweep "
            f"(by {(self.again - self.before) * 100:+.2g} points); they part at epoch {self.first_difference}. "
            "The same bits need the same kind of machine, versions and threads (see the tags of the sweep's MLflow run)"
        )


@dataclass(frozen=True)
class SeedRuns:
    """A config trained with several seeds.

    Attributes:
        trial: number of the trial with this config.
        seeds: of the runs.
        nme: validation NME of each run.
        mean, std: over the runs; the standard deviation of a single one is NaN.
    """

    trial: int
    seeds: Sequence[int]
    nme: Sequence[float]
    mean: float
    std: float

    @property
    def text(self) -> str:
        """Mean and standard deviation, such as '6.70% +- 0.13%'; one run has no deviation."""
        return f"{self.mean:.2%}" + (f" +- {self.std:.2%}" if len(self.seeds) > 1 else "")


@dataclass(frozen=True)
class SeedStudy:
    """Winner and runner-up trained with the same other seeds.

    Attributes:
        winner: its runs.
        runner_up: the runs of the next best trial; None without one, and then the others are None, too.
        difference: mean NME of the runner-up minus that of the winner.
        interval: the 95 % interval of the difference, see `statistics.difference_interval`.
        distinguishable: whether the interval excludes 0; never with one seed.
    """

    about: ClassVar[str] = "seeds"
    winner: SeedRuns
    runner_up: SeedRuns | None = None
    difference: float | None = None
    interval: Sequence[float] | None = None
    distinguishable: bool | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_detail(cls, detail: Mapping[str, Any]) -> Self:
        runs = {key: SeedRuns(**detail[key]) for key in ("winner", "runner_up") if detail[key] is not None}
        return cls(**_known(cls, {**detail, **runs}))

    def detail(self) -> dict[str, Any]:
        """The fields as the event log holds them."""
        return asdict(self)

    @property
    def metrics(self) -> dict[str, float]:
        """Numbers for the sweep's MLflow run."""
        found = {"seeds/nme_mean": self.winner.mean, "seeds/nme_std": self.winner.std}
        if self.runner_up is not None and self.difference is not None:
            found |= {"seeds/runner_up_nme_mean": self.runner_up.mean, "seeds/difference": self.difference}
        return found

    @property
    def text(self) -> str:
        """Whether the runner-up can be told from the winner, in words."""
        winner, runner_up = self.winner, self.runner_up
        seeds = f"{len(winner.seeds)} other seed{'s' * (len(winner.seeds) != 1)}"
        text = f"trial {winner.trial} with {seeds}: val NME {winner.text}"
        if runner_up is None or self.interval is None or self.difference is None:
            return f"{text}; there is no other complete trial to compare it with"
        low, high = self.interval
        if not self.distinguishable:
            verdict = "cannot be told from the winner"
        else:
            verdict = "is worse" if low > 0 else "is better than the winner, whose lead was luck"
        return (
            f"{text}; runner-up, trial {runner_up.trial}: {runner_up.text}, "
            f"{self.difference * 100:+.2f} points (95 %: {low * 100:+.2f} to {high * 100:+.2f}): it {verdict}"
        )


@dataclass(frozen=True)
class FinalTest:
    """Networks of one config, trained on train + val, on the test split.

    Attributes:
        trial: number of the trial with this config.
        runs, seeds: of the networks.
        faces: in the test split.
        nme: mean over the networks.
        rates: failure rate and AUC by their names, such as fr10 and auc10, means over the networks.
        nme_of_seeds: NME of each network.
        std: standard deviation of those; None of one network.
        interval: the 95 % interval of the NME, by a bootstrap over faces and networks.
        subsets: by name, NME and rates on its faces, and their number.
        parts: by name, NME of its landmarks.
        config_hash, data_hash: of the config, and of the test faces.
        overlap: which test pictures were trained on, in words; None if none, or if nobody looked.
        skipped: which test faces were left out, in words.
        threads, device: that the networks were evaluated with.
        provenance: versions, commit and machine.
    """

    about: ClassVar[str] = "final"
    trial: int
    runs: Sequence[str]
    seeds: Sequence[int]
    faces: int
    nme: float
    rates: Mapping[str, float]
    nme_of_seeds: Sequence[float]
    std: float | None
    interval: Sequence[float]
    subsets: Mapping[str, Mapping[str, float]]
    parts: Mapping[str, float]
    config_hash: str = ""
    data_hash: str = ""
    overlap: str | None = None
    skipped: str | None = None
    threads: int | None = None
    device: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_detail(cls, detail: Mapping[str, Any]) -> Self:
        rates = {name: detail[name] for name in rates_in(detail)}
        return cls(**_known(cls, {**detail, "rates": rates}))

    def detail(self) -> dict[str, Any]:
        """The fields as the event log holds them."""
        found = asdict(self)
        return found | found.pop("rates")

    @property
    def metrics(self) -> dict[str, float]:
        """Numbers for the sweep's MLflow run."""
        found = {"final/nme": self.nme} | {f"final/{name}": value for name, value in self.rates.items()}
        found |= {f"final/subset/{name}": of["nme"] for name, of in self.subsets.items()}
        return found | {f"final/part/{part}": value for part, value in self.parts.items()}

    @property
    def warnings(self) -> list[str]:
        """What has to be known about the test faces beside the number."""
        lines = []
        if self.skipped:
            lines.append(f"faulty test faces were left out: {self.skipped}")
        if self.overlap:
            lines.append(f"{self.overlap}: data.allow_overlap")
        return lines

    @property
    def summary(self) -> str:
        """NME, interval and rates in one line."""
        spread = "" if self.std is None else f" +- {self.std:.2%} over {len(self.seeds)} seeds"
        low, high = self.interval
        failures, area = rates_in(self.rates)
        return (
            f"trial {self.trial}, trained on train + val: test NME {self.nme:.2%}{spread} "
            f"(95 %: {low:.2%} to {high:.2%}), {rate_label(failures)} {self.rates[failures]:.2%}, "
            f"{rate_label(area)} {self.rates[area]:.4f}, {self.faces} faces"
        )

    @property
    def text(self) -> str:
        """The summary, and tables of subsets and parts."""
        lines = [self.summary, *self.warnings]
        lines += [f"  {name:14} NME {of['nme']:.2%}" for name, of in self.subsets.items()]
        lines += [f"  {part:14} NME {value:.2%}" for part, value in self.parts.items()]
        return "\n".join(lines)


Finding = Reproduction | SeedStudy | FinalTest


@dataclass
class Findings:
    """The newest finding of each kind; None where that was not rerun."""

    reproduction: Reproduction | None = None
    seed_study: SeedStudy | None = None
    final_test: FinalTest | None = None

    def add(self, about: str, detail: Mapping[str, Any]) -> None:
        """Adds a finding of the event log; of a kind that this version does not know, nothing."""
        if about == Reproduction.about:
            self.reproduction = Reproduction.from_detail(detail)
        elif about == SeedStudy.about:
            self.seed_study = SeedStudy.from_detail(detail)
        elif about == FinalTest.about:
            self.final_test = FinalTest.from_detail(detail)
