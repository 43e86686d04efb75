"""How far trials have come travels from workers to the driver, in a real Ray session."""

import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

DEMO = Path(__file__).parents[3] / "configs" / "sweep" / "demo.yaml"


def test_outside_of_a_session_none_is_begun() -> None:
    import ray

    from sweep.execution import epoch_progress

    assert not ray.is_initialized()
    with epoch_progress.ProgressReporter(3) as teller:
        teller.note(1, 0.5)
        time.sleep(1.5)
    assert epoch_progress.read([3]) == {}
    epoch_progress.clear()
    assert not ray.is_initialized()


@pytest.fixture(scope="module")
def ray_is_up():
    from sweep.core.config_file import load_sweep
    from sweep.execution.ray_session import ray_session

    with ray_session(load_sweep(DEMO, {})):  # which begins again on a busy machine
        yield


def test_the_driver_reads_what_workers_tell_until_it_is_forgotten(ray_is_up) -> None:
    import ray

    from sweep.execution import epoch_progress

    def tell(trial: int, epoch: int, share: float) -> None:  # a closure: workers know no tests
        with epoch_progress.ProgressReporter(trial) as teller:
            teller.note(epoch, 0.0)
            teller.note(epoch, share)
            ended = time.monotonic() + 60
            while not epoch_progress.read([trial]) and time.monotonic() < ended:
                time.sleep(0.05)

    assert epoch_progress.read([3, 4]) == {}
    ray.get([ray.remote(tell).remote(trial, 2, share) for trial, share in ((3, 0.25), (4, 0.5))])
    found = epoch_progress.read([3, 4, 5])
    assert {number: (progress.epoch, progress.share) for number, progress in found.items()} == {
        3: (2, 0.25),
        4: (2, 0.5),
    }
    assert all(progress.seconds >= 0 for progress in found.values())
    epoch_progress.clear()
    assert epoch_progress.read([3, 4]) == {}


def test_without_a_store_there_is_nothing_to_read(ray_is_up, monkeypatch) -> None:
    from sweep.execution import epoch_progress, ray_private

    class Away:
        def __getattr__(self, name: str):
            raise ConnectionError(name)

    monkeypatch.setattr(ray_private.internal_kv, "internal_kv_get_gcs_client", Away)
    assert epoch_progress.read([3]) == {}
    epoch_progress.clear()
    with epoch_progress.ProgressReporter(3) as teller:
        teller.note(1, 0.5)
        time.sleep(1.5)  # it has tried, and training goes on
        assert teller._thread.is_alive()
