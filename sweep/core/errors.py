"""All that can go wrong with a sweep beside its settings. Imports nothing, so that every command can name it."""

from __future__ import annotations


class StudyMismatchError(ValueError):
    """A sweep of this name exists with another space or base config."""


class StudyStorageError(ValueError):
    """The study's database cannot be opened, or has been away for too long."""


class SupersededError(RuntimeError):
    """Another worker has taken the trial over, since this one was taken for dead."""


class StorageError(OSError):
    """The storage cannot be used; the message names it."""


class TrackingUnavailable(Exception):
    """MLflow cannot be reached or cannot answer now; what was sent until then is kept. The message holds no secret."""


class ClusterGoneError(RuntimeError):
    """The head of the cluster has not answered for too long; the sweep can go on when there is one again."""


class RerunError(RuntimeError):
    """A training run beside the trials did not come to its end; the message names it and why."""
