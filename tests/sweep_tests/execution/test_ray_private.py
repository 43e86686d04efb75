"""Every part of Ray that is not public is still what `sweep.execution.ray_private` takes it for."""

from __future__ import annotations

import inspect
import os
from collections.abc import Set

import pytest
import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError
from ray.tune.experiment import Trial

from sweep.execution import ray_private

MOVED = f"Ray {ray.__version__} has this no longer as sweep/execution/ray_private.py uses it: "


def source_of(module: object) -> str:
    return inspect.getsource(module)  # type: ignore[arg-type]


def test_messages_go_through_one_function_with_their_lines() -> None:
    from ray._private import worker

    assert hasattr(worker, "print_to_stdstream"), MOVED + "print_to_stdstream"
    assert next(iter(inspect.signature(worker.print_to_stdstream).parameters)) == "data", MOVED + "its argument"
    assert source_of(worker).count("print_to_stdstream(") > 1, MOVED + "nothing calls print_to_stdstream"


def test_messages_are_redirected(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import worker

    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    told: list[str] = []
    ray_private.redirect_messages(told.append)
    worker.print_to_stdstream({"lines": ["a worker", "died"]}, ignore_prefix=True)
    assert told == ["a worker died"]


def test_cluster_mode_is_read_where_a_session_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import ray_constants

    assert hasattr(ray_constants, "ENABLE_RAY_CLUSTER"), MOVED + "ENABLE_RAY_CLUSTER"
    monkeypatch.delenv(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, raising=False)
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    with ray_private.loopback_only():
        assert ray.util.get_node_ip_address() == "127.0.0.1", MOVED + "ENABLE_RAY_CLUSTER is not read"
        assert os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] == "0"
    assert ray_constants.ENABLE_RAY_CLUSTER
    assert ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR not in os.environ


def test_who_has_decided_about_cluster_mode_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import ray_constants

    monkeypatch.setenv(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, "1")
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    with ray_private.loopback_only():
        assert ray_constants.ENABLE_RAY_CLUSTER


def test_a_machine_without_ray_is_no_member() -> None:
    from ray._private import services

    assert hasattr(services, "find_gcs_addresses"), MOVED + "find_gcs_addresses"
    assert isinstance(services.find_gcs_addresses(), Set), MOVED + "find_gcs_addresses returns no set"
    assert not ray_private.is_member("192.0.2.1:6379")


def test_tune_compares_with_one_error_in_two_modules() -> None:
    from ray.air.execution._internal import actor_manager
    from ray.tune.execution import tune_controller

    ray_private.retry_all_crashes()
    for module in (actor_manager, tune_controller):
        assert module.RayActorError == (RayActorError, OutOfMemoryError, NodeDiedError)
    assert any("RayActorError" in source_of(module) for module in (actor_manager, tune_controller)), (
        MOVED + "Tune no longer asks for RayActorError"
    )
    assert not issubclass(OutOfMemoryError, RayActorError), "no longer needed"
    assert not issubclass(NodeDiedError, RayActorError), "no longer needed"


def test_what_is_kept_from_workers_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.tune.execution import class_cache

    assert isinstance(getattr(class_cache, "ENV_VARS_TO_PROPAGATE", None), set), MOVED + "ENV_VARS_TO_PROPAGATE"
    monkeypatch.setattr(class_cache, "ENV_VARS_TO_PROPAGATE", {"AWS_SECRET_ACCESS_KEY", "TUNE_X"})
    ray_private.keep_from_workers({"AWS_SECRET_ACCESS_KEY"})
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("TUNE_X", "shown")
    copied = class_cache._ActorClassCache().get(Trial)._default_options["runtime_env"]["env_vars"]
    assert copied.get("TUNE_X") == "shown", MOVED + "_ActorClassCache does not copy ENV_VARS_TO_PROPAGATE"
    assert "AWS_SECRET_ACCESS_KEY" not in copied


def test_a_trial_of_tune_knows_its_actor() -> None:
    trial = Trial("any", stub=True)
    assert hasattr(trial, "temporary_state"), MOVED + "Trial.temporary_state"
    assert ray_private.actor_of(trial) is None
    trial.temporary_state.ray_actor = "an actor"
    assert ray_private.actor_of(trial) == "an actor"


def test_the_store_of_a_session_has_what_progress_needs() -> None:
    from ray._raylet import InnerGcsClient
    from ray.experimental import internal_kv

    assert hasattr(internal_kv, "internal_kv_get_gcs_client"), MOVED + "internal_kv_get_gcs_client"
    for name in ("internal_kv_put", "internal_kv_multi_get", "internal_kv_del"):
        assert hasattr(InnerGcsClient, name), MOVED + name
