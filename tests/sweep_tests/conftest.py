"""What several tests of the sweep use."""

import os

import pytest
import sqlalchemy


@pytest.fixture
def no_waiting_for_the_disk(monkeypatch):
    """A process may be killed at any time all the same; only a power cut would show."""

    def relax(connection, record):
        connection.execute("PRAGMA synchronous=OFF")

    monkeypatch.setattr(os, "fsync", lambda file: None)
    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "connect", relax)
    yield
    sqlalchemy.event.remove(sqlalchemy.engine.Engine, "connect", relax)
