"""python -m trainer.evaluate RUN_DIR_OR_CKPT --split val|test: measures a trained network on a split."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config import TrainConfig
from trainer.errors import CheckpointError, ConfigError, DataError
from trainer.landmarks import ATTRIBUTES, Norm
from trainer.metric_names import rate_label, rates_in
from trainer.settings import ArgumentParser

if TYPE_CHECKING:
    from trainer.data.crops import CropSplit
    from trainer.data.face_table import Split
    from trainer.data_config import DataConfig


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog="python -m trainer.evaluate", description=__doc__)
    parser.add_argument("checkpoint", metavar="RUN_DIR_OR_CKPT", help="run folder, or best.pt")
    parser.add_argument("--split", choices=["val", "test"], default="val", help="faces to measure on [default: val]")
    parser.add_argument(
        "--json", action="store_true", help="print one object: nme, fr10, auc10, norm, faces, subsets, parts"
    )
    parser.add_settings(TrainConfig, sections=["data", "run"])
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 done, 1 failed, 2 bad input."""
    parser = build_parser()
    arguments = parser.parse(argv)

    from trainer.data.crop_cache import load_split
    from trainer.evaluation import evaluate
    from trainer.form_speed import slow_here
    from trainer.inference import load_trained

    try:
        config, model = load_trained(Path(arguments.checkpoint), parser.overrides(arguments))
        if text := slow_here(config):
            print(f"{text} (here: --run.precision float32)", file=sys.stderr)
        for line in _about_faces(config.data, crops := load_split(config.data, arguments.split), arguments.split):
            print(line, file=sys.stderr)
        found = evaluate(model, crops, config).report(ATTRIBUTES)
    except ConfigError as error:
        parser.error(str(error))
    except (DataError, CheckpointError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(_without_nan(found)) if arguments.json else _table(found, arguments.split, config.data.norm))
    return 0


def _about_faces(data: DataConfig, crops: CropSplit, split: Split) -> list[str]:
    """What the numbers may owe to the faces; a DataError where the test split holds pictures that were trained on."""
    from trainer.data.survey import SplitFacts, Survey, trained_on

    lines = Survey({split: SplitFacts.of(crops)}, data.norm).warnings()
    twins = trained_on(data, split)
    if twins is None:
        return [*lines, "whether these faces were trained on is not known: the training list cannot be read here"]
    return [*lines, twins.text("among these faces and in what was trained on")] if twins else lines


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: null stands for what could not be measured."""
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _table(found: dict[str, Any], split: str, norm: Norm) -> str:
    rows = [(split, found)] + [(f"  {name}", subset) for name, subset in found["subsets"].items()]
    failures, area = rates_in(found)
    lines = [f"{'':14}{'faces':>7}{'NME':>9}{rate_label(failures):>9}{rate_label(area):>10}"]
    lines += [f"{n:14}{r['faces']:7d}{r['nme']:9.3%}{r[failures]:9.2%}{r[area]:10.4f}" for n, r in rows]
    lines += ["", f"NME is divided by {norm}", ""]
    lines += [*(f"  {part:12}{'':7}{value:9.3%}" for part, value in found["parts"].items())]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
