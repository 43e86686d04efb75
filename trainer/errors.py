"""All that can be wrong with what the trainer is given, without importing torch."""

from __future__ import annotations


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged, newer than this program or of another config."""


class DiskFullError(OSError):
    """A file could not be written because its disk, or the user's share of it, is full."""


class NonFiniteError(ArithmeticError):
    """The loss or the validation NME became NaN or infinite."""


class ModelError(RuntimeError):
    """Weights that cannot be had or do not fit; the message says what to do."""


class DataError(ValueError):
    """Faulty data; the message names the file and the line, or the folder and what is expected in it."""


class ConfigError(ValueError):
    """A setting that does not fit; the message names field, value, what is allowed and the nearest valid key."""
