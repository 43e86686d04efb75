"""The files in configs/cluster, as far as they can be held against the programs that read them without a cluster."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml
from harness import CALM, MARK, Sweep
from waiting import PATIENCE, wait_for

from sweep.core.config import SweepConfig
from sweep.core.config_file import load_sweep
from sweep.execution.resources import fitting
from sweep.run import build_parser

PROJECT = Path(__file__).parents[1]
CLUSTER = PROJECT / "configs" / "cluster"
FILES = sorted(CLUSTER.iterdir())
SLURM, WFLW = CLUSTER / "slurm.sh", CLUSTER / "wflw.yaml"
OURS = {
    "ray_starsweep_trials",
    "ray_starsweep_best_nme",
    "ray_starsweep_slots",
    "ray_starsweep_live_trials",
    "ray_starsweep_busy_fraction",
    "ray_starsweep_mlflow_lag_events",
    "ray_starsweep_failures_total",
    "ray_starsweep_retries_total",
    "ray_starsweep_epochs_total",
}
SECRETS = {
    "PGPASSWORD",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_ENDPOINT_URL",
}

every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


def documents(name: str) -> list[Any]:
    return [each for each in yaml.safe_load_all((CLUSTER / name).read_text()) if each]


def load_words(words: Sequence[str]) -> SweepConfig:
    """The sweep that the words after `python -m sweep.run` mean, read by the program's own parser."""
    parser = build_parser()
    arguments = parser.parse(words)
    return load_sweep(PROJECT / arguments.sweep.removeprefix("/opt/starsweep/"), parser.overrides(arguments))


def parse_ray_start(words: Sequence[str]) -> dict[str, Any]:
    """The options of `ray start`, read by Ray's own command line; unknown ones end the test."""
    from ray.scripts.scripts import cli

    assert isinstance(cli, click.Group)
    with cli.commands["start"].make_context("ray start", list(words)) as context:
        return context.params


def header(path: Path) -> str:
    """The comments at the top of a file."""
    lines: list[str] = []
    for line in path.read_text().splitlines():
        if not line.startswith("#") or line.startswith("#SBATCH"):
            break
        lines.append(line)
    return "\n".join(lines)


def test_the_files_are_there() -> None:
    assert {path.name for path in FILES} == {
        "Dockerfile",
        "grafana_dashboard.json",
        "prometheus.yml",
        "ray_cluster.yaml",
        "rayjob.yaml",
        "slurm.sh",
        "wflw.yaml",
    }


# All of them


@every_file
def test_there_are_no_secrets(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"AKIA[0-9A-Z]{12}|ASIA[0-9A-Z]{12}|-----BEGIN|gh[pousr]_\w{20}|hf_\w{20}", text)
    assert not re.search(r"://[^/\s:@]+:[^/\s@]+@", text)  # a password in an address
    named = r"(?i)(?:password|passwd|secret\w*|access_key\w*|token)['\"]?\s*[:=]\s*['\"]?([^\s,;'\"(){}$]{4,})"
    assert set(re.findall(named, text)) <= {"false", "token"}


@every_file
def test_what_is_to_be_changed_is_named_at_its_top(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"TO[D]O|FIX[M]E|X[X]X|CHANGE.?ME|<[A-Za-z][\w -]*>|\byour-|\bmy-", text)
    for place in set(re.findall(r"[a-z]*[-.]?example[a-z.-]*[a-z]", text.removeprefix(header(path)))):
        assert place in header(path), f"{place} is no real name, and the comments at the top do not say so"


@every_file
def test_no_path_of_a_developers_machine_is_left(path: Path) -> None:
    assert not re.search(r"/work/|/root/|/opt/venvs|/home/(?!ubuntu)", path.read_text())


# The sweep


def test_the_sweep_loads() -> None:
    config = load_words([str(WFLW)])
    assert (config.name, config.ray_address, config.slots) == ("wflw_cluster", "auto", 8)
    assert (config.study or "").startswith("postgresql://")
    assert (config.storage or "").startswith("s3://")
    base = load_sweep(PROJECT / "configs" / "sweep" / "eight_gpus.yaml", {})
    for name in ("space", "known", "epochs", "sampler", "pruner", "train"):
        assert getattr(config, name) == getattr(base, name)


# AWS


@pytest.fixture(scope="module")
def aws() -> dict[str, Any]:
    (config,) = documents("ray_cluster.yaml")
    return config


def test_ray_takes_the_cluster_file(aws: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(json.loads(json.dumps(aws)))
    validate_config(prepared)
    assert prepared["head_setup_commands"][: len(aws["setup_commands"])] == aws["setup_commands"]
    assert prepared["available_node_types"]["head"]["max_workers"] == 0


def test_amazon_takes_the_machines(aws: dict[str, Any]) -> None:
    session = pytest.importorskip("botocore.session").get_session()
    from botocore.validate import ParamValidator

    shape = session.get_service_model("ec2").operation_model("RunInstances").input_shape
    for kind in aws["available_node_types"].values():
        report = ParamValidator().validate({**kind["node_config"], "MinCount": 1, "MaxCount": 1}, shape)
        assert not report.has_errors(), report.generate_report()


@pytest.mark.slow
def test_ray_starts_the_machines_on_a_stand_in_for_amazon(
    aws: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mock_aws = pytest.importorskip("moto").mock_aws
    for name, value in {"HOME": str(tmp_path), "AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    (tmp_path / ".ssh").mkdir()
    with mock_aws():
        import boto3
        from ray.autoscaler._private.aws.config import bootstrap_aws
        from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
        from ray.autoscaler._private.util import prepare_config

        region = aws["provider"]["region"]
        for name in ("example-head", "example-worker"):
            boto3.client("iam", region_name=region).create_instance_profile(InstanceProfileName=name)
        image = boto3.client("ec2", region_name=region).describe_images()["Images"][0]["ImageId"]
        ready = bootstrap_aws(prepare_config(json.loads(json.dumps(aws))))
        provider = AWSNodeProvider(ready["provider"], ready["cluster_name"])
        for kind in ready["available_node_types"].values():
            labels = {"ray-node-type": "worker", "ray-node-status": "uninitialized"}
            assert len(provider.create_node({**kind["node_config"], "ImageId": image}, labels, 1)) == 1


def test_the_machines_of_aws_are_enough_for_the_sweep(aws: dict[str, Any]) -> None:
    config, kinds = load_words([str(WFLW)]), aws["available_node_types"]
    fit = {
        name: fitting(config.resources, kind["resources"].get("CPU", 0), kind["resources"].get("GPU", 0))
        for name, kind in kinds.items()
    }
    assert fit["head"] == 0
    assert sum(fit[name] * kind["max_workers"] for name, kind in kinds.items() if name != "head") >= (config.slots or 1)
    workers = [kind for name, kind in kinds.items() if name != "head"]
    assert sum(kind["max_workers"] for kind in workers) <= aws["max_workers"]
    assert all(kind["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot" for kind in workers)
    assert "InstanceMarketOptions" not in kinds["head"]["node_config"]
    on_cpus = load_sweep(PROJECT / "configs" / "sweep" / "ytf68.yaml", {}).resources
    assert fitting(on_cpus, kinds["cpu"]["resources"]["CPU"], 0) > 1


def test_ray_takes_the_start_commands_of_aws(aws: dict[str, Any]) -> None:
    def started(kind: str) -> dict[str, Any]:
        found = [re.search(r"/ray start (.*)", line) for line in aws[f"{kind}_start_ray_commands"]]
        (words,) = [shlex.split(match[1]) for match in found if match]
        return parse_ray_start(words)

    head, worker = started("head"), started("worker")
    assert (head["head"], head["num_cpus"], head["num_gpus"]) == (True, 0, 0)
    assert worker["address"] == f"$RAY_HEAD_IP:{head['port']}"


def test_the_commands_in_the_comments_of_aws_are_read() -> None:
    found = re.findall(r"#\s+python -m sweep\.run (.*)", header(CLUSTER / "ray_cluster.yaml"))
    assert len(found) == 2
    for line in found:
        assert load_words(shlex.split(line)).ray_address == "auto"
    from ray.scripts.scripts import cli

    for name in re.findall(r"#\s+ray ([a-z-]+) ", header(CLUSTER / "ray_cluster.yaml")):
        assert name in cli.commands


def test_what_the_machines_install_exists(aws: dict[str, Any]) -> None:
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (install,) = [line for line in aws["setup_commands"] if "--editable" in line]
    image = (CLUSTER / "Dockerfile").read_text()
    for text in (install, image):
        (names,) = re.findall(r'--constraint constraints\.txt --editable "\.\[([a-z,]+)\]"', text)
        assert set(names.split(",")) <= set(extras)
    for line in re.findall(r"^COPY (.*) \S+$", image, re.MULTILINE):
        assert all((PROJECT / name).exists() for name in line.split())
    assert (
        "ray==" + documents("rayjob.yaml")[1]["spec"]["rayClusterSpec"]["rayVersion"]
        in (PROJECT / "constraints.txt").read_text().splitlines()
    )


# Kubernetes


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    return documents("rayjob.yaml")[1]


def pods(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    return {
        "submitter": job["spec"]["submitterPodTemplate"]["spec"],
        "head": cluster["headGroupSpec"]["template"]["spec"],
        **{group["groupName"]: group["template"]["spec"] for group in cluster["workerGroupSpecs"]},
    }


def test_the_ray_job_has_only_known_fields(job: dict[str, Any]) -> None:
    schema = json.loads((Path(__file__).parent / "rayjob_schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(job)
    job = json.loads(json.dumps(job))
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["enw"] = []
    with pytest.raises(jsonschema.ValidationError, match="enw"):
        jsonschema.Draft202012Validator(schema).validate(job)


def test_volumes_of_the_ray_job_are_there(job: dict[str, Any]) -> None:
    (claim,) = [each for each in documents("rayjob.yaml") if each["kind"] == "PersistentVolumeClaim"]
    claims = set()
    for pod in pods(job).values():
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        mounted = {mount["name"] for container in pod["containers"] for mount in container.get("volumeMounts", [])}
        assert volumes == mounted
        claims |= {v["persistentVolumeClaim"]["claimName"] for v in pod.get("volumes", []) if "emptyDir" not in v}
    assert claims == {claim["metadata"]["name"], "example-faces"}


def test_secrets_reach_the_head_only(job: dict[str, Any]) -> None:
    for name, pod in pods(job).items():
        given = {e["name"] for c in pod["containers"] for e in c.get("env", []) if "valueFrom" in e}
        assert given == (SECRETS if name == "head" else set())
        assert pod.get("automountServiceAccountToken", True) is (name == "head")  # the autoscaler beside it needs one


def test_no_pod_has_more_rights_than_it_needs(job: dict[str, Any]) -> None:
    for pod in pods(job).values():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            rights = container["securityContext"]
            assert rights == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
            assert set(container["resources"]) == {"requests", "limits"}


def test_the_command_of_the_ray_job_is_read(job: dict[str, Any]) -> None:
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "sweep.run"]
    assert not re.search(r"[;&|<>$`'\"\\\n]", job["spec"]["entrypoint"])  # the submitter's shell reads it first
    config = load_words(words[3:])
    assert (config.ray_address, config.output) == ("auto", "/outputs")
    mounts = {m["mountPath"] for m in pods(job)["head"]["containers"][0]["volumeMounts"]}
    assert config.output in mounts
    for name in ("head", "gpu"):
        faces = [m["mountPath"] for m in pods(job)[name]["containers"][0]["volumeMounts"] if m["name"] == "faces"]
        assert config.train.data.root is not None
        assert Path(config.train.data.root).is_relative_to(faces[0])


def test_the_pods_are_enough_for_the_sweep(job: dict[str, Any]) -> None:
    config = load_words(shlex.split(job["spec"]["entrypoint"])[3:])
    fit = 0
    for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        has = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        fit += group["maxReplicas"] * fitting(config.resources, float(has["cpu"]), float(has["nvidia.com/gpu"]))
    assert fit >= (config.slots or 1)


def test_ray_takes_the_start_parameters_of_the_pods(job: dict[str, Any]) -> None:
    def started(params: dict[str, str], *more: str) -> dict[str, Any]:
        words = [f"--{key}" if value == "true" else f"--{key}={value}" for key, value in params.items()]
        return parse_ray_start([*words, *more])  # as KubeRay puts them together

    cluster = job["spec"]["rayClusterSpec"]
    head = started(cluster["headGroupSpec"]["rayStartParams"], "--head", "--block")
    assert (head["num_cpus"], head["num_gpus"]) == (0, 0)
    for group in cluster["workerGroupSpecs"]:
        worker = started(group["rayStartParams"], "--address=head:6379", "--block")
        assert worker["num_cpus"] is None  # that of the pod


def test_the_hook_of_the_head_ends_the_driver_and_waits(job: dict[str, Any], tmp_path: Path) -> None:
    hook = pods(job)["head"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "__init__.py").touch()  # or the real package would be found before it
    (tmp_path / "sweep" / "run.py").write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), sys.exit(130)))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    proc, environment = tmp_path / "proc", {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    proc.mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "sweep.run", "wflw.yaml"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE
    ) as driver:
        try:
            assert driver.stdout is not None
            driver.stdout.readline()
            (proc / str(driver.pid)).symlink_to(f"/proc/{driver.pid}")  # of this machine's processes only these two
            (proc / str(os.getpid())).symlink_to(f"/proc/{os.getpid()}")
            words = [word.replace("/proc/", f"{proc}/") for word in hook]
            with subprocess.Popen(words, stderr=subprocess.PIPE) as hooked:
                assert driver.wait(timeout=PATIENCE) == 130
                assert hooked.wait(timeout=PATIENCE) == 0
                assert hooked.stderr is not None
                assert hooked.stderr.read() == b""
        finally:
            driver.kill()


# SLURM

STUBS = {
    "srun": """#!/usr/bin/env bash
for word in "$@"; do if [[ $word == --nodelist=b ]]; then sleep "${STUB_LATE:-0}"; fi; done
while [[ $1 == --* ]]; do shift; done
exec "$@"
""",
    "scontrol": """#!/usr/bin/env bash
case "$1 $2" in
    "show hostnames") tr , '\\n' <<< "$3" ;;
    "show job") echo "   StartTime=2026-01-01T00:00:00 EndTime=${STUB_END:-Unknown} Deadline=N/A" ;;
    *) echo "$*" >> "$STUB_LOG.scontrol" ;;
esac
""",
    "hostname": """#!/usr/bin/env bash
echo 127.0.0.1
""",
}
RECORDERS = {
    "ray": """#!/usr/bin/env bash
printf '%s\\t' "$PGPASSWORD" "$RAY_AUTH_TOKEN" "$@" >> "$STUB_LOG.ray"
echo >> "$STUB_LOG.ray"
port=$(grep -o -- '--port=[0-9]*' <<< "$*" | cut -d= -f2)
if [[ -n $port ]]; then exec "$STUB_PYTHON" -m http.server --bind 127.0.0.1 "$port" > /dev/null 2>&1; fi
exec sleep 60
""",
    "python": """#!/usr/bin/env bash
case $1 in
    -c) exec "$STUB_PYTHON" "$@" ;;
    -) exit 0 ;;
esac
until [[ $(wc -l < "$STUB_LOG.ray") == 2 ]]; do sleep 0.05; done
printf '%s\\t' "$PGPASSWORD" "$RAY_AUTH_TOKEN" "$@" > "$STUB_LOG.driver"
exit "$STUB_CODE"
""",
}


def free_job() -> int:
    """Number of a job whose port is free."""
    for number in range(os.getpid(), os.getpid() + 1200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", 20000 + number % 1200 * 10)):
                return number
    raise AssertionError("no port is free")


def on_slurm(folder: Path, job: int, stubs: dict[str, str], **more: str) -> dict[str, str]:
    """The environment of a job on two nodes, with stand-ins for the programs of SLURM that run everything here."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    for name, text in stubs.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(folder),
        "STUB_LOG": str(folder / "log"),
        "STUB_PYTHON": sys.executable,
        "SLURM_JOB_ID": str(job),
        "SLURM_JOB_NODELIST": "a,b",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "16",
        "SLURM_SUBMIT_DIR": str(folder),
        "HEAD_IP": "127.0.0.1",
        **more,
    }


def recorded(path: Path) -> list[list[str]]:
    return [line.rstrip("\t").split("\t") for line in path.read_text().splitlines()]


def test_the_script_is_valid() -> None:
    assert os.access(SLURM, os.X_OK)
    subprocess.run(["bash", "-n", str(SLURM)], check=True)
    text = SLURM.read_text()
    for line in ("--signal=B:TERM@120", "--requeue", "--open-mode=append", "--ntasks-per-node=1"):
        assert f"\n#SBATCH {line}\n" in text


def test_the_script_is_good_shell() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run(["shellcheck", str(SLURM)], check=True)


@pytest.mark.parametrize(("kept", "head", "gpus"), [("2", 14, 4), ("16", 0, 0)], ids=["shared", "driver only"])
def test_the_script_calls_ray_and_the_sweep_as_they_want_it(kept: str, head: int, gpus: int, tmp_path: Path) -> None:
    (tmp_path / "sweep.env").write_text("PGPASSWORD=known-to-the-driver-only\n")
    given = on_slurm(
        tmp_path,
        free_job(),
        STUBS | RECORDERS,
        PYTHON=str(tmp_path / "programs" / "python"),
        SECRETS="sweep.env",
        SLURM_GPUS_ON_NODE="4",
        DRIVER_CPUS=kept,
        STUB_CODE="0",
        SWEEP="configs/sweep/wflw_resnet50_star.yaml",
    )
    done = subprocess.run(
        ["bash", str(SLURM), "--epochs", "8400", "--slots", "3"],
        env=given,
        timeout=PATIENCE,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (driver,) = recorded(tmp_path / "log.driver")
    nodes = recorded(tmp_path / "log.ray")
    assert driver[0] == "known-to-the-driver-only"
    assert len(driver[1]) == 64
    assert {(node[0], node[1], node[2]) for node in nodes} == {("", driver[1], "start")}
    assert driver[2:4] == ["-m", "sweep.run"]
    config = load_words(driver[4:])
    assert (config.epochs, config.slots) == (8400, 3)
    first, other = (parse_ray_start(node[3:]) for node in nodes)
    assert (first["head"], first["num_cpus"], first["num_gpus"]) == (True, head, gpus)
    assert (other["head"], other["num_cpus"], other["num_gpus"]) == (False, 16, 4)
    assert config.ray_address == other["address"] == f"{first['node_ip_address']}:{first['port']}"
    assert not (tmp_path / "log.scontrol").exists()  # it does not queue again


def test_a_job_that_fails_near_its_limit_does_not_queue_again(tmp_path: Path) -> None:
    python = str(tmp_path / "programs" / "python")
    more = {"PYTHON": python, "STUB_CODE": "1", "SLURM_JOB_END_TIME": str(int(time.time()) + 60)}
    given = on_slurm(tmp_path, free_job(), STUBS | RECORDERS, **more)
    done = subprocess.run(["bash", str(SLURM)], env=given, timeout=PATIENCE, capture_output=True, text=True)
    assert done.returncode == 1
    assert not (tmp_path / "log.scontrol").exists()


@pytest.mark.slow
@pytest.mark.long
def test_a_sweep_on_two_nodes_is_interrupted_and_goes_on(tmp_path: Path) -> None:
    space = {"optim.lr": {"choice": [1e-3, 3e-3]}}
    train = {**CALM["train"], "optim": {"epochs": 6, "batch_size": 8}}
    sweep = Sweep(
        tmp_path / "home", settings={**CALM, "space": space, "known": [], "trials": 2, "slots": 1, "train": train}
    )
    job = free_job()
    given = on_slurm(
        tmp_path,
        job,
        STUBS,
        PYTHON=sys.executable,
        PYTHONPATH=str(PROJECT),
        SWEEP=str(sweep.home / f"{sweep.name}.yaml"),
        OUTPUT=str(sweep.output),
        XDG_CACHE_HOME=str(tmp_path / "cache"),
        SLURM_CPUS_PER_TASK="2",
        DRIVER_CPUS="1",
        SLURM_JOB_END_TIME=str(int(time.time()) + 150),
        STUB_LATE="3",  # two nodes of one machine that start at once are in each other's way
        HEAD_IP="",
        **{MARK: sweep.mark},
    )
    programs = tmp_path / "programs"
    (programs / "hostname").unlink()

    def start(log: Path) -> subprocess.Popen:
        with log.open("wb") as output:
            return subprocess.Popen(
                ["bash", str(SLURM)], env=given, stdout=output, stderr=output, start_new_session=True
            )

    first, second = tmp_path / "first.log", tmp_path / "second.log"
    with start(first) as script:
        wait_for(lambda: "epoch 2/6" in first.read_text() or script.poll() is not None, "an epoch")
        script.send_signal(signal.SIGTERM)
        assert script.wait(timeout=PATIENCE) == 130, first.read_text()
    assert "2 of 2 nodes" in first.read_text()
    assert (tmp_path / "log.scontrol").read_text() == f"requeue {job}\n"
    assert [event.data["state"] for event in sweep.events() if event.kind.value == "sweep_ended"] == ["KILLED"]
    assert not Path(f"/tmp/ray_{job}").exists()
    sweep.wait_until_gone()
    with start(second) as script:
        assert script.wait(timeout=PATIENCE) == 0, second.read_text()
    assert set(sweep.states().values()) <= {"COMPLETE", "PRUNED"}
    assert set(sweep.reports().values()) == {1}
    sweep.wait_until_gone()


# Prometheus and Grafana


def test_prometheus_looks_where_ray_writes() -> None:
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    text = (CLUSTER / "prometheus.yml").read_text()
    (scraped,) = yaml.safe_load(text)["scrape_configs"]
    assert scraped["file_sd_configs"][0]["files"] == [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]
    commented = text.partition("#  - job_name")
    (kubernetes,) = yaml.safe_load("\n".join(line[1:] for line in (commented[1] + commented[2]).splitlines()))
    assert [rule["action"] for rule in kubernetes["relabel_configs"] if "action" in rule] == ["keep", "keep"]


def expressions() -> Iterator[tuple[str, str]]:
    board = json.loads((CLUSTER / "grafana_dashboard.json").read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


def rays_metrics() -> set[str]:
    import ray

    source = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    text = (source / "default_dashboard_panels.py").read_text()
    return set(re.findall(r"\b(?:ray|autoscaler)_[a-z_]+", text))


def test_every_metric_of_the_dashboard_exists() -> None:
    words = {"by", "sum", "min", "max", "avg", "count", "rate", "increase", "label_values"}
    used: set[str] = set()
    for title, text in expressions():
        bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|by \([^)]*\)|, sweep\)", " ", text)
        names = set(re.findall(r"[A-Za-z_]\w*", bare)) - words
        assert names, title
        assert names <= OURS | rays_metrics(), title
        used |= names
        for labels in re.findall(r"(ray_starsweep_\w+)(\{[^}]*\})", text):
            assert labels[1] == '{sweep=~"$sweep"}', title
    assert used >= OURS


def test_the_metrics_are_those_that_a_sweep_reports() -> None:
    text = (PROJECT / "sweep" / "driver" / "prometheus.py").read_text()
    for name in OURS:  # Ray puts ray_ before all, and _total behind counters
        stem = name.removeprefix("ray_").removesuffix("_total")
        assert f'"{stem}"' in text or f'"{stem.removeprefix("starsweep_")}": ' in text, name


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    board = json.loads((CLUSTER / "grafana_dashboard.json").read_text())
    assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "sweep"}
    identities = [panel["id"] for panel in board["panels"]]
    assert len(set(identities)) == len(identities)
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert panel["description"]
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
