"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder with real faces (ytf68, wflw_sample); tests that need it skip without."""
    folder = os.environ.get("STARSWEEP_TEST_DATA")
    if not folder:
        pytest.skip("STARSWEEP_TEST_DATA is not set: no real faces to test on")
    return Path(folder).resolve()
