"""Workers without what trials that do nothing do not need, so that hundreds of them fit into one machine's memory.

A worker of Ray Tune takes some 110 MB of its own, of which Ray Data and pandas, both imported and never used by such
trials, are a third.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

LEFT_OUT = ("pandas", "ray.data")


class _Empty(MetaPathFinder, Loader):
    """Finds an empty module for each that is left out, in which every name is an empty class."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        left_out = any(name == one or name.startswith(f"{one}.") for one in LEFT_OUT)
        return ModuleSpec(name, self, is_package=True) if left_out else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        module.__getattr__ = _empty_class  # type: ignore[method-assign]
        return module

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to execute."""


def _empty_class(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})


def leave_out() -> None:
    """To be called in a worker before it imports anything of Ray Tune."""
    sys.meta_path.insert(0, _Empty())


def make_workers_light(ray: Any) -> None:
    """Lets `ray.init` have every worker of this driver begin with `leave_out`."""
    init = ray.init

    def lighter(*arguments: Any, runtime_env: dict[str, Any] | None = None, **options: Any) -> Any:
        with_hook = (runtime_env or {}) | {"worker_process_setup_hook": leave_out}
        return init(*arguments, runtime_env=with_hook, **options)

    ray.init = lighter
