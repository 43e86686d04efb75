"""Sweeps: Optuna decides, Ray runs, MLflow shows. In Python: `from sweep import run_sweep, load` (see README.md)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweep.analysis.sweep_result import load
    from sweep.run import run_sweep

__all__ = ["load", "run_sweep"]


def __getattr__(name: str) -> Any:
    """Imports a function when it is first used, so that commands that need neither start faster."""
    if name == "load":
        from sweep.analysis.sweep_result import load

        return load
    if name == "run_sweep":
        from sweep.run import run_sweep

        return run_sweep
    raise AttributeError(f"module 'sweep' has no attribute {name!r}")
