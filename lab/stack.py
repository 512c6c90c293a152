"""A whole lab: ESXi data path, vCenter, CloudStack and VDDK library in one directory.

``up`` starts daemons and returns, ``down`` ends them. All state is in the directory, and the next
``up`` uses it again. ``running_lab`` does both around a ``with`` block.
"""

from __future__ import annotations

import fcntl
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lab import processes, scenario, scenarios
from lab.cloudstack.seed import default_ids
from lab.cloudstack.store import load_credentials
from lab.control import ControlClient, ControlError
from lab.scenario import Scenario
from lab.vcenter.certificate import ensure_certificate
from lab.vddk.build import LabVddkConf, build

HOST = "127.0.0.1"
_START_SECONDS = 90.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.03
_LONGEST_DIRECTORY = 107 - len("/cloudstack/control.sock")
"""A unix socket's name has at most 107 bytes (unix(7))."""
_PARTS = ("vcenter", "cloudstack", "esxi")
"""In the order in which they are stopped: each one before those that it depends on."""

Report = Callable[[str], None]


class LabError(Exception):
    """The lab cannot be started or found; the message names the remedy."""


@dataclass(frozen=True)
class Ports:
    """TCP ports on loopback; 0 means the port of the last run, or a free one."""

    vcenter: int = 0
    cloudstack: int = 0


@dataclass(frozen=True)
class Lab:
    """A running lab. ``info`` is the content of lab.json."""

    directory: Path
    info: dict[str, Any] = field(repr=False)

    @property
    def vcenter(self) -> ControlClient:
        """Control of the vCenter simulator (see lab.vcenter.control)."""
        return ControlClient(Path(self.info["vcenter"]["control"]))

    @property
    def cloudstack(self) -> ControlClient:
        """Control of the CloudStack simulator."""
        return ControlClient(Path(self.info["cloudstack"]["control"]))

    @property
    def esxi(self) -> ControlClient:
        """Control of the ESXi data path."""
        return ControlClient(Path(self.info["esxi"]["control"]))

    def vm(self, name: str) -> dict[str, Any]:
        """lab.json's entry of a VM, by name (which must be unique) or moref. Raises KeyError."""
        found = [v for v in self.info["vms"] if name in (v["name"], v["moref"])]
        if len(found) != 1:
            raise KeyError(f"{len(found)} VMs are called {name!r}")
        return dict(found[0])


def _silent(_text: str) -> None:
    """Default progress report."""


def up(
    directory: Path,
    wanted: Scenario | str | None = None,
    ports: Ports | None = None,
    report: Report = _silent,
) -> Lab:
    """Start the parts that do not run, and return when all parts answer.

    ``wanted`` is the scenario of a new directory (default "demo"); for an existing directory it
    must be that directory's scenario or None. Raises LabError.
    """
    directory = directory.absolute()
    if len(str(directory)) > _LONGEST_DIRECTORY:
        raise LabError(
            f"{directory} is too long a path: unix sockets in it allow "
            f"{_LONGEST_DIRECTORY} characters"
        )
    # The directory has the credentials of all parts.
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _only_one(directory):
        return _up(directory, wanted, ports or Ports(), report)


def _up(directory: Path, wanted: Scenario | str | None, ports: Ports, report: Report) -> Lab:
    _prepare(directory, wanted)
    for part, port in asdict(ports).items():
        _assign_port(directory, part, port)
    try:
        with ThreadPoolExecutor() as pool:
            library = pool.submit(_build_vddk, directory)
            _start_esxi(directory, report)
            cloudstack = pool.submit(_start, directory, "cloudstack", report)
            vcenter = pool.submit(_start, directory, "vcenter", report)
            vcenter.result()
            cloudstack.result()
            report("VDDK: building the library")
            library.result()
    except BaseException:
        _down(directory, report)
        raise
    lab = Lab(directory, _describe(directory))
    # If only the disks' server was restarted, the guests have lost their disks and ended.
    lab.vcenter.call("start_guests")
    _write_json(directory / "lab.json", lab.info)
    return lab


def down(directory: Path, report: Report = _silent) -> list[str]:
    """End the lab's processes and its guests; returns the names of those that ran."""
    directory = directory.absolute()
    if not directory.is_dir():
        return []
    with _only_one(directory):
        return _down(directory, report)


def _down(directory: Path, report: Report) -> list[str]:
    ended = []
    for name in _PARTS[:-1]:
        ended += _stop(directory / "pids" / f"{name}.pid", name, report)
    # Guests first, while their disks are served: they flush and log their last writes.
    for pid_file in sorted((directory / "guests").glob("*.pid")):
        ended += _stop(pid_file, f"guest {pid_file.stem}", report)
    ended += _stop(directory / "pids" / "esxi.pid", "esxi", report)
    return ended


def load(directory: Path) -> Lab:
    """The lab of a directory, as described by its last ``up``. Raises LabError."""
    path = directory.absolute() / "lab.json"
    if not path.exists():
        raise LabError(f"{directory} has no lab; `v2c lab up --dir {directory}` creates one")
    return Lab(directory.absolute(), json.loads(path.read_text()))


def status(directory: Path) -> dict[str, Any]:
    """Which processes run, and what the simulators report. Raises LabError."""
    lab = load(directory)
    pids = lab.directory / "pids"
    guests = sorted((lab.directory / "guests").glob("*.pid"))
    result: dict[str, Any] = {
        "directory": str(lab.directory),
        "processes": {name: processes.running_pid(pids / f"{name}.pid") for name in _PARTS},
        "guests": {path.stem: processes.running_pid(path) for path in guests},
    }
    for name, client in (("vcenter", lab.vcenter), ("cloudstack", lab.cloudstack)):
        try:
            result[name] = client.call("status")
        except ControlError as error:
            if error.kind != "unreachable":
                raise
            result[name] = None
    return result


@contextmanager
def running_lab(
    directory: Path, wanted: Scenario | str = "small", ports: Ports | None = None
) -> Iterator[Lab]:
    """A lab that runs during the block; it also ends if this process dies."""
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    guard = subprocess.Popen(
        [sys.executable, "-m", "lab.guard", str(directory)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield up(directory, wanted, ports)
    finally:
        down(directory)
        guard.communicate(b"released\n")


@contextmanager
def _only_one(directory: Path) -> Iterator[None]:
    """Lock the lab's directory: only one process at a time starts or stops the lab."""
    with (directory / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _prepare(directory: Path, wanted: Scenario | str | None) -> None:
    for name in ("pids", "vcenter", "pool"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    path = directory / "scenario.json"
    if isinstance(wanted, str):
        wanted = scenarios.built_in(wanted)
    if path.exists():
        present = scenario.load(path.read_bytes())
        if wanted is not None and wanted != present:
            raise LabError(
                f"{directory} already has a lab of scenario {present.name!r}; "
                "use another directory, or remove this one after `v2c lab down`"
            )
        return
    partial = path.with_suffix(".new")
    partial.write_bytes(scenario.dump(wanted or scenarios.built_in("demo")))
    partial.replace(path)


def _start(directory: Path, part: str, report: Report) -> None:
    pid_file = directory / "pids" / f"{part}.pid"
    if processes.running_pid(pid_file) is not None:
        return
    control = directory / part / "control.sock"
    control.unlink(missing_ok=True)
    port = _port(directory, part)
    report(f"{part}: starting on {HOST}:{port}")
    log = directory / f"{part}.log"
    command = [sys.executable, "-m", f"lab.{part}", "--dir", str(directory), "--port", str(port)]
    process = processes.spawn(command, pid_file, f"lab.{part}", log)
    _wait(process, log, lambda: _answers(control, "status") and _listens(port))


def _start_esxi(directory: Path, report: Report) -> None:
    pid_file = directory / "pids" / "esxi.pid"
    if processes.running_pid(pid_file) is not None:
        return
    report("esxi: starting the disks' server")
    control = directory / "esxi" / "control.sock"
    control.unlink(missing_ok=True)
    log = directory / "esxi.log"
    command = [sys.executable, "-m", "lab.esxi_host", "--dir", str(directory)]
    process = processes.spawn(command, pid_file, "lab.esxi_host", log)
    _wait(process, log, lambda: _answers(control, "disks"))


def _wait(process: subprocess.Popen[bytes], log: Path, ready: Callable[[], bool]) -> None:
    """Wait until the process answers. Raises LabError with the end of its log if it does not."""
    deadline = time.monotonic() + _START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            tail = " | ".join(log.read_text(errors="replace").splitlines()[-3:])
            raise LabError(f"{log.stem} did not start, see {log}: {tail}")
        time.sleep(_POLL_SECONDS)


def _answers(control: Path, operation: str) -> bool:
    """Whether the socket answers; its file exists before the process listens."""
    try:
        ControlClient(control, timeout_seconds=1).call(operation)
    except ControlError as error:
        if error.kind == "unreachable":
            return False
        raise
    return True


def _assign_port(directory: Path, part: str, port: int) -> None:
    """Choose a part's port: its present one if it runs, else `port`, the last one, or any."""
    if processes.running_pid(directory / "pids" / f"{part}.pid") is not None:
        return
    kept = directory / "pids" / f"{part}.port"
    if not port and kept.exists() and not _listens(int(kept.read_text())):
        return
    if not port:
        with socket.create_server((HOST, 0)) as probe:
            port = probe.getsockname()[1]
    kept.write_text(str(port))


def _port(directory: Path, part: str) -> int:
    return int((directory / "pids" / f"{part}.port").read_text())


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def _build_vddk(directory: Path) -> Path:
    certificate = ensure_certificate(directory / "vcenter")
    user = scenario.load((directory / "scenario.json").read_bytes()).users[0]
    return build(
        directory / "vddk",
        LabVddkConf(
            nbd_socket=directory / "esxi" / "nbd.sock",
            control_socket=directory / "esxi" / "control.sock",
            servers=(HOST, "localhost", "vcenter.lab.test"),
            port=_port(directory, "vcenter"),
            user=user.name,
            password=user.password,
            thumbprints=(certificate.thumbprint_sha1, certificate.thumbprint_sha256),
        ),
    )


def _describe(directory: Path) -> dict[str, Any]:
    certificate = ensure_certificate(directory / "vcenter")
    user = scenario.load((directory / "scenario.json").read_bytes()).users[0]
    api_key, secret_key = load_credentials(directory / "cloudstack")
    vcenter_control = directory / "vcenter" / "control.sock"
    pids = directory / "pids"
    return {
        "vcenter": {
            "host": HOST,
            "port": _port(directory, "vcenter"),
            "user": user.name,
            "password": user.password,
            "thumbprint_sha1": certificate.thumbprint_sha1,
            "thumbprint_sha256": certificate.thumbprint_sha256,
            "ca_file": str(certificate.ca_file),
            "control": str(vcenter_control),
        },
        "esxi": {
            "socket": str(directory / "esxi" / "nbd.sock"),
            "control": str(directory / "esxi" / "control.sock"),
        },
        "cloudstack": {
            "endpoint": f"http://{HOST}:{_port(directory, 'cloudstack')}/client/api",
            "api_key": api_key,
            "secret_key": secret_key,
            "control": str(directory / "cloudstack" / "control.sock"),
            "ids": default_ids(),
            "pool_path": str(directory / "pool"),
        },
        "vddk_path": str(directory / "vddk"),
        "vms": [_vm(directory, vm) for vm in ControlClient(vcenter_control).call("vms")["vms"]],
        "pids": {name: processes.running_pid(pids / f"{name}.pid") for name in _PARTS},
    }


def _vm(directory: Path, vm: dict[str, Any]) -> dict[str, Any]:
    """A VM's entry in lab.json; ``write_log`` exists once its writer has started."""
    log = directory / "guests" / f"{vm['moref']}.writes.jsonl"
    return {**vm, "write_log": str(log)}


def _stop(pid_file: Path, name: str, report: Report) -> list[str]:
    if processes.running_pid(pid_file) is None:
        pid_file.unlink(missing_ok=True)
        return []
    report(f"{name}: stopping")
    processes.stop(pid_file, _STOP_SECONDS)
    return [name]


def _write_json(path: Path, value: object) -> None:
    partial = path.with_suffix(".new")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False))
    partial.chmod(0o600)
    partial.replace(path)
