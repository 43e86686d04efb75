"""The words and tables of a model card, in Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sweep.analysis.findings import FinalTest
from sweep.analysis.sweep_result import SweepResult
from sweep.core.formatting import format_params
from trainer.config import TrainConfig
from trainer.forms import form_of
from trainer.metric_names import rate_label, rates_in

DATASETS = {"synthetic": "synthetic faces", "wflw": "WFLW", "w300": "300-W style", "coco": "COCO style"}


@dataclass(frozen=True)
class Published:
    """What a card is about.

    Attributes:
        model: its name, such as resnet50_star_wflw_256x256.
        config: what it was trained with, without the folders of this machine.
        config_hash: of the config as it was.
        checkpoint, log: names of the files beside the card.
        final: the final evaluation; None while the test split was not read.
        val_nme: of the winner in the sweep, a fraction.
        device: that it was trained on.
        registered: where it is in MLflow's registry, if it is.
    """

    model: str
    config: TrainConfig
    config_hash: str
    checkpoint: str
    log: str
    final: FinalTest | None
    val_nme: float
    device: str
    registered: str | None = None

    @property
    def nme(self) -> float:
        """The number of the card: of the test faces, if they were read."""
        return self.val_nme if self.final is None else self.final.nme

    @property
    def split(self) -> str:
        """The faces that it was measured on."""
        return "val" if self.final is None else "test"


def card_text(sweep: SweepResult, card: Published) -> str:
    """The whole card."""
    parts = [
        f"# {card.model}",
        _warning(card, sweep.test_readings),
        _row(card),
        "## Measured\n\n" + _measured(sweep, card),
        "## Protocol\n\n" + _protocol(card),
        "## Search\n\n" + _search(sweep),
        "## Best config\n\n```yaml\n" + yaml.safe_dump(card.config.tree(), sort_keys=False) + "```",
        "## Environment\n\n" + _environment(sweep, card),
        "## Use\n\n" + _use(card),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def percent(fraction: float, digits: int = 2) -> str:
    """A fraction as a percentage without its sign, as model cards have it."""
    return f"{fraction * 100:.{digits}f}"


def dataset(config: TrainConfig) -> str:
    """The name of the data set."""
    return DATASETS[config.data.kind]


def _warning(card: Published, readings: int) -> str:
    lines = []
    if card.config.data.kind == "synthetic":
        lines.append(
            "**Synthetic data.** Trained and measured on faces that a program draws. The numbers say that the pipeline "
            "works; they say nothing about real faces and must not be compared with published ones."
        )
    if card.final is None:
        read = f"was read {readings} times, without a result" if readings else "was not read"
        lines.append(
            f"**Validation NME.** The test split {read}. The number below chose this model, and is therefore too "
            "good; `sweep.rerun NAME --final` measures it on the test faces, once."
        )
    return "\n>\n".join(f"> {line}" for line in lines)


def _row(card: Published) -> str:
    size = f"{card.config.data.image_size}x{card.config.data.image_size}"
    nme = percent(card.val_nme) + " (val)"
    if card.final is not None:
        nme = percent(card.final.nme)
        if card.final.std is not None:
            nme += f" ± {percent(card.final.std)}"
    links = f"[ckpt]({card.checkpoint}) | [log]({card.log})"
    return _table(
        ["Model", "Input Size", "NME", "ckpt", "log"], [f"{card.model} | {size} | {nme} | {links}".split(" | ")]
    )


def _measured(sweep: SweepResult, card: Published) -> str:
    lines = []
    if card.final is not None:
        lines.append(_final(card.final, sweep.test_readings))
    if sweep.findings.seed_study is not None:
        lines.append(f"Seeds (validation): {sweep.findings.seed_study.text}.")
    else:
        lines.append("Seed noise was not measured.")
    if sweep.findings.reproduction is not None:
        lines.append(f"Repeated: {sweep.findings.reproduction.text}.")
    return "\n\n".join(lines)


def _final(final: FinalTest, readings: int) -> str:
    low, high = final.interval
    failures, area = rates_in(final.rates)
    count = len(final.seeds)
    seeds = f"seed{'s' * (count != 1)} " + ", ".join(map(str, final.seeds))
    networks = f"{count} network{'s' * (count != 1)} ({seeds}) of trial {final.trial}"
    each = ", ".join(percent(nme) for nme in final.nme_of_seeds)
    again = "" if readings == 1 else f" **The test split was read {readings} times for this sweep.**"
    text = (
        f"Test split, {final.faces} faces, {networks}, trained on train + val: NME "
        f"{percent(final.nme)} % (95 % interval {percent(low)} to {percent(high)}, bootstrap over faces and seeds; "
        f"each: {each}), {rate_label(failures)} {percent(final.rates[failures])} %, {rate_label(area)} "
        f"{final.rates[area]:.4f}. The checkpoint is that of the first seed.{again}"
    )
    text += "".join(f"\n\n**{line[0].upper()}{line[1:]}.**" for line in final.warnings)
    tables = []
    if final.subsets:
        rows = [
            [name, str(round(v["faces"])), percent(v["nme"]), percent(v[failures]), f"{v[area]:.4f}"]
            for name, v in final.subsets.items()
        ]
        tables.append(_table(["subset", "faces", "NME %", f"{rate_label(failures)} %", rate_label(area)], rows))
    tables.append(_table(["part", "NME %"], [[part, percent(nme)] for part, nme in final.parts.items()]))
    return "\n\n".join([text, *tables])


def _protocol(card: Published) -> str:
    data, optim, run = card.config.data, card.config.optim, card.config.run
    layout, norm = data.landmarks, data.norm
    facts = [
        f"{dataset(card.config)}, {layout.count} landmarks ({layout.name}), {data.image_size} px crops of the face "
        f"box, enlarged {data.box_scale:g} times",
        f"NME: mean distance of the landmarks, divided by {norm}",
        f"trained on {data.train_on}, {optim.epochs} epochs, {optim.batch_size * optim.accumulate} faces a step, "
        f"{optim.name}, {optim.schedule} schedule, backbone weights: {_pretrained(card.config)}",
        f"evaluated with{'' if run.flip_test else 'out'} flip test, {form_of(card.config)}",
    ]
    return "\n".join(f"- {fact}" for fact in facts)


def _pretrained(config: TrainConfig) -> str:
    known = {"none": "none (from scratch)", "imagenet": "ImageNet"}
    return known.get(config.model.pretrained, "from a file")


def _search(sweep: SweepResult) -> str:
    config, states = sweep.config, Counter(r.state.value.lower() for r in sweep.records.values())
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    facts = [
        f"budget used: {len(sweep.records)} trials ({counts}), {sweep.epochs_spent} epochs, "
        f"{sweep.trial_hours:.2f} trial-hours",
        f"sampler {config.sampler.name}, pruner {config.pruner.name}, seed {config.seed}; on validation faces only",
    ]
    if best := sweep.best:
        facts.append(
            f"winner: trial {best.number}, {format_params(best.params)}, val NME {percent(best.best_nme or 0)} %"
        )
    rows = [[d.key, d.kind, _values(d)] for d in config.dimensions]
    return "\n".join(f"- {fact}" for fact in facts) + "\n\n" + _table(["setting", "kind", "values"], rows)


def _values(d: Any) -> str:
    return ", ".join(map(str, d.choices)) if d.kind == "choice" else f"{d.low:g} to {d.high:g}"


def _environment(sweep: SweepResult, card: Published) -> str:
    shown = {key: value for key, value in sweep.tags.items() if key not in ("command", "sampler", "pruner")}
    shown |= dict(card.final.provenance) if card.final is not None else {}
    shown["config.hash"] = card.config_hash
    shown["seed"] = str(card.config.run.seed)
    shown["device"] = card.device
    shown["threads"] = str(card.config.run.threads)
    if card.final is not None:
        shown["data.hash.test"] = card.final.data_hash
    return _table(["what", "value"], [[key, value] for key, value in sorted(shown.items())])


def _use(card: Published) -> str:
    text = f"    python -m trainer.predict {card.checkpoint} PICTURE.jpg --out FOLDER\n"
    text += f"    python -m trainer.export {card.checkpoint} --format onnx"
    return text if card.registered is None else f"{text}\n\nIn MLflow's registry: `{card.registered}`"


def public(config: TrainConfig) -> TrainConfig:
    """The config without the folders of this machine: of a whole path, its last part."""
    data = config.data
    paths = {f"data.{key}": getattr(data, key) for key in ("root", "train_list", "val_list", "test_list")}
    paths["model.pretrained"] = config.model.pretrained
    short = {key: Path(path).name if path and Path(path).is_absolute() else path for key, path in paths.items()}
    return config.replace({"run.output": None, "data.cache_dir": None, **short})


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
