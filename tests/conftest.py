"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def quick_precision() -> str:
    """In what networks are computed without taking ages: CPUs without units for bfloat16 emulate it."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    in_hardware = torch.backends.cpu.get_cpu_capability().startswith("AVX512") and "avx512_bf16" in flags
    return "bfloat16" if in_hardware else "float32"


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder with real faces (ytf68, wflw_sample); tests that need it skip without."""
    folder = os.environ.get("STARSWEEP_TEST_DATA")
    if not folder:
        pytest.skip("STARSWEEP_TEST_DATA is not set: no real faces to test on")
    return Path(folder).resolve()
