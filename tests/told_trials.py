"""Trials in all states, as a study would tell of them, for tests of whoever reads trials."""

from sweep.core.trial import State, TrialRecord


def record(number, state, *curve, seconds=1.0, **more) -> TrialRecord:
    """A trial whose curve has these values from epoch 1 on."""
    params = {"optim.lr": 1e-3 * (number + 1), "loss.star_weight": 0.5}
    return TrialRecord(number, params, State(state), dict(enumerate(curve, 1)), seconds=seconds, **more)


RECORDS = [
    record(0, "PRUNED", 0.30),
    record(1, "COMPLETE", 0.40, 0.20, seconds=12.345),
    record(2, "FAILED", reason="lost"),
    record(3, "DIVERGED", 0.01),
    record(4, "COMPLETE", 0.30, 0.10),
    record(5, "RUNNING", 0.05),
    record(6, "PRUNED", 0.29),
    record(7, "COMPLETE", 0.30, 0.20),
    record(8, "DIVERGED"),
    record(9, "RUNNING"),
    record(10, "FAILED", 0.02),
]
