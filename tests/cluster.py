"""A Ray cluster of machines that share a network and nothing else: each one lives in Linux namespaces of its own.

A machine has its own address, host name, processes, shared memory and folder for Ray; a bridge is the switch between
them. They see one file system, so the output folder of a sweep is the disk that they share. All of it is gone with the
process that made it, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from prepared import share_speeds
from waiting import PATIENCE

NETWORK = "10.77.0"  # seen by nobody else: also the switch has a namespace of its own
PORT = 6379
IMPATIENT = {  # else Ray takes minutes to find out that a machine, or its head, is silent
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_grpc_client_keepalive_timeout_ms": "3000",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
}
_TOOLS = ("ip", "unshare", "nsenter", "mount")
_RAY = Path("/tmp/ray")  # where Ray puts whatever it writes; each machine has another folder there
_BOOT = """
set -e
mount --bind "$1" "$2"
mount -t tmpfs -o size=400m shm /dev/shm
hostname "$3"
ip link set lo up
echo up
read -r  # until the pipe closes, with the process that made this machine
"""


def missing() -> str | None:
    """Why this computer cannot play a cluster; None if it can."""
    if tools := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        return f"no network namespaces: {', '.join(tools)} not installed"
    words = ["unshare", "--net", "--pid", "--mount", "--uts", "--ipc", "--fork", "--mount-proc"]
    link = ["ip", "link", "add", "name", "one", "type", "veth", "peer", "name", "other"]
    tried = subprocess.run([*words, *link], capture_output=True)
    return f"no network namespaces: {tried.stderr.decode().strip()}" if tried.returncode else None


class Machine:
    """A computer of its own, as far as its processes can tell.

    Args:
        name: its host name.
        disk: folder for what it keeps to itself.
    """

    def __init__(self, name: str, disk: Path) -> None:
        self.name, self.disk = name, disk
        self.address = ""
        for folder in (_RAY, disk / "ray", disk / "cache"):
            folder.mkdir(parents=True, exist_ok=True)
        share_speeds(disk / "cache")
        words = ["unshare", "--net", "--pid", "--mount", "--uts", "--ipc", "--fork", "--mount-proc", "--kill-child"]
        self._process = subprocess.Popen(
            [*words, "bash", "-c", _BOOT, "boot", str(disk / "ray"), str(_RAY), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the tests
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"up\n", f"{name} does not start"
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        self.pid = int(children.read_text())  # of its first process, with which all others end
        self._port: tuple[Machine, str] | None = None
        self.sound = True  # neither killed nor ever cut off, after which Ray never takes a node back

    def plug_in(self, switch: Machine, port: str, address: str) -> None:
        """Connects it with a switch."""
        self._port, self.address = (switch, port), address
        switch.ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(self.pid))
        switch.ip("link", "set", port, "master", "switch", "up")
        card = "02:00:" + ":".join(f"{int(byte):02x}" for byte in address.split("."))
        self.ip("link", "set", "eth0", "address", card)  # by its address: whoever knew one there before finds this one
        self.ip("address", "add", f"{address}/24", "dev", "eth0")
        self.ip("link", "set", "eth0", "up")

    def cut_off(self) -> None:
        """Pulls its network cable; its processes know nothing of that."""
        self.sound = False
        self._set_port("down")

    def reconnect(self) -> None:
        """Puts the cable back."""
        self._set_port("up")

    def _set_port(self, state: str) -> None:
        assert self._port is not None
        switch, port = self._port
        switch.ip("link", "set", port, state)

    def ip(self, *words: str) -> None:
        """Changes its network from outside."""
        subprocess.run(["nsenter", f"--target={self.pid}", "--net", "ip", *words], check=True, capture_output=True)

    def prefix(self, folder: Path) -> list[str]:
        """The words before a command that make it run on this machine, in this folder."""
        spaces = [f"--{kind}" for kind in ("net", "pid", "mount", "uts", "ipc")]
        return ["nsenter", f"--target={self.pid}", *spaces, "env", f"--chdir={folder}"]

    def do(self, *words: str, **env: str) -> str:
        """Runs a command here, with nothing of the tests' environment, and gives what it printed."""
        words = (*self.prefix(self.disk), "-i", *(f"{key}={value}" for key, value in self._environment(env)), *words)
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, f"{self.name}: {words}: {done.stdout}{done.stderr}"
        return done.stdout

    def _environment(self, more: dict[str, str]) -> Sequence[tuple[str, str]]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        own = {"PATH": path, "HOME": str(self.disk), "XDG_CACHE_HOME": str(self.disk / "cache")}
        return list((own | more).items())

    def processes(self, word: str = "") -> dict[int, str]:
        """Command lines by process number, of those with this word in it, as the machine itself sees them."""
        lines = self.do("ps", "-ww", "-e", "-o", "pid=,args=").splitlines()
        found = {int(pid): args for pid, _, args in (line.strip().partition(" ") for line in lines)}
        return {pid: args for pid, args in found.items() if word in args and not args.startswith("ps -ww")}

    def kill(self) -> None:
        """Ends all its processes with SIGKILL, and takes it off the network."""
        self.sound = False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._process.communicate()
        if self._port is not None:
            switch, port = self._port
            self._port = None
            with contextlib.suppress(subprocess.CalledProcessError):  # it may have gone with the machine
                switch.ip("link", "delete", port)


class NetworkCluster:
    """Machines on one switch. As a context manager, it has a head that trains nothing, and leaves nothing behind.

    Ray's processes are as impatient as `IMPATIENT` says, but for those that a driver starts on its own machine.

    Args:
        folder: for what the machines keep to themselves.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._machines: list[Machine] = []
        self._joined: list[Machine] = []
        self.ray_address = f"{NETWORK}.1:{PORT}"

    def __enter__(self) -> NetworkCluster:
        with contextlib.ExitStack() as stack:
            stack.callback(self._kill_all)
            self._switch = Machine("switch", self._folder / "switch")
            stack.callback(self._switch.kill)
            self._switch.ip("link", "add", "switch", "type", "bridge")
            self._switch.ip("link", "set", "switch", "up")
            self.head = self._start_head()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _kill_all(self) -> None:
        for machine in self._machines:
            machine.kill()

    def add_machine(self, number: int | None = None) -> Machine:
        """A machine on which nothing runs, and of which Ray knows nothing."""
        count = len(self._machines) + 1
        machine = Machine(f"machine{count}", self._folder / f"{count}")
        self._machines.append(machine)
        machine.plug_in(self._switch, f"port{count}", f"{NETWORK}.{number or count}")
        return machine

    def add_node(self, cpus: int = 1) -> Machine:
        """A machine that has joined the cluster."""
        machine = self.add_machine()
        self._start_ray(machine, f"--address={self.ray_address}", f"--num-cpus={cpus}")
        self._joined.append(machine)
        return machine

    @property
    def nodes(self) -> list[Machine]:
        """The machines that have joined and that nothing has happened to."""
        return [machine for machine in self._joined if machine.sound]

    def restart(self) -> None:
        """The head anew, at the address of the old one, of which it knows nothing; and as many nodes as there were."""
        before = self.nodes
        for machine in (self.head, *before):
            machine.kill()
        self.head = self._start_head()
        for _ in before:
            self.add_node()

    def _start_head(self) -> Machine:
        machine = self.add_machine(1)
        words = ("--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false")
        self._start_ray(machine, *words)
        return machine

    @staticmethod
    def _start_ray(machine: Machine, *words: str) -> None:
        words = (*words, f"--node-ip-address={machine.address}", "--num-gpus=0", "--object-store-memory=80000000")
        machine.do(sys.executable, "-m", "ray.scripts.scripts", "start", *words, "--disable-usage-stats", **IMPATIENT)
