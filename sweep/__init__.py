"""Sweeps: Optuna decides, Ray runs, MLflow shows. In Python: `from sweep import run, load` (see README.md)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweep.analysis.sweep_result import load

__all__ = ["load", "run"]  # run is the module sweep.run, which can be called


def __getattr__(name: str) -> Any:
    """Imports `load` when it is asked for: a command that does without must not wait for it."""
    if name == "load":
        from sweep.analysis.sweep_result import load

        return load
    raise AttributeError(f"module 'sweep' has no attribute {name!r}")
