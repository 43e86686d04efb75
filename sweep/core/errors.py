"""Errors of a sweep. Imports nothing, so that every command can catch them."""

from __future__ import annotations


class StudyMismatchError(ValueError):
    """A sweep of this name exists with another space or base config."""


class StudyStorageError(ValueError):
    """The study's database cannot be opened, or was unavailable for too long."""


class SupersededError(RuntimeError):
    """Another worker has taken the trial over, because this one was presumed dead."""


class StorageError(OSError):
    """The storage cannot be used; the message names it."""


class TrackingUnavailable(Exception):
    """MLflow cannot be reached or cannot answer now; what was sent until then is kept. The message holds no secret."""


class RayStartError(RuntimeError):
    """Ray does not start on this machine; the message says why, and what can be done."""


class ClusterGoneError(RuntimeError):
    """The head of the cluster did not answer for too long; the sweep can be resumed on a cluster."""


class RerunError(RuntimeError):
    """A rerun failed; the message names it and the reason."""
