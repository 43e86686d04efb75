"""The benchmarks measure what they say; their times are not tested."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.__main__ import NAMES, write_section
from benchmarks.kernel import landmark_logits, published_star
from benchmarks.measuring import Table, medians_in_turn, time_in_turn
from trainer.losses import star_loss


def test_the_published_form_is_the_same_loss() -> None:
    logits, target = landmark_logits((2, 5, 24, 20), spread=0.15)
    found = {}
    for loss in (published_star, star_loss):
        leaf = logits.clone().requires_grad_()
        value = loss(leaf, target)
        value.backward()
        found[loss] = value.item(), leaf.grad
    (theirs, their_gradient), (ours, our_gradient) = found.values()
    assert abs(ours - theirs) < 1e-5 * abs(theirs)
    assert (our_gradient - their_gradient).abs().max() < 1e-3 * their_gradient.abs().max()


def test_variants_are_called_in_turn_and_the_first_rounds_are_not_counted(monkeypatch) -> None:
    calls, clock = [], iter([0, 9, 20, 21, 22, 25, 30, 33, 40, 47])
    monkeypatch.setattr("benchmarks.measuring.time.perf_counter", lambda: next(clock))
    variants = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    assert time_in_turn(variants, rounds=2, warmup=1) == {"a": 2.0, "b": 5.0}
    assert calls == ["a", "b"] * 3


def test_medians_are_of_values_taken_in_turn() -> None:
    a, b = iter([(3.0, 1.0), (1.0, 2.0), (2.0, 3.0)]), iter([7.0, 9.0, 8.0])
    assert medians_in_turn({"a": a.__next__, "b": b.__next__}, rounds=3) == {"a": (2.0, 3.0), "b": 8.0}
    calls: list[str] = []
    medians_in_turn({name: lambda name=name: calls.append(name) or 0.0 for name in "ab"}, rounds=2)
    assert calls == ["a", "b"] * 2


def test_a_section_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    table = Table("Title", ["a", "b"], [["1", "2"]], "Conditions.").markdown()
    for name in reversed(NAMES):
        write_section(path, name, f"{table} {name}")
    before = path.read_text()
    assert [before.index(f"<!-- {name} -->") for name in NAMES] == sorted(before.index(f"<!-- {n} -->") for n in NAMES)
    write_section(path, "data", "## Other\n\ntext")
    after = path.read_text()
    assert f"Conditions. {NAMES[0]}\n" in after
    assert "Conditions. data" not in after
    assert "## Other\n\ntext\n" in after
    write_section(path, "data", f"{table} data")
    assert path.read_text() == before


def test_the_tables_are_markdown() -> None:
    lines = Table("Title", ["a", "b"], [["1", "2"]], "Conditions.").markdown().splitlines()
    assert lines == ["## Title", "", "| a | b |", "| --- | --- |", "| 1 | 2 |", "", "Conditions."]


def test_landmark_logits_peak_near_their_targets() -> None:
    logits, target = landmark_logits((2, 3, 32, 32), spread=0.1)
    assert logits.shape == (2, 3, 32, 32)
    x = torch.softmax(logits.flatten(2), -1).unflatten(2, (32, 32)).sum(2) @ torch.linspace(-1, 1, 32)
    assert (x - target[..., 0]).abs().mean() < 0.1
