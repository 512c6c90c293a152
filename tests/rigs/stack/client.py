"""The orchestrator's API as tests use it: submit, wait for what an operator would see."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
import yaml
from google.protobuf.message import Message

from lab.demo import files
from services.kit.channel import connect_sync
from services.kit.tls import TlsFiles
from tests.rigs.stack.site import Site
from v2c.orchestrator.v1 import orchestrator_pb2 as pb
from v2c.orchestrator.v1 import orchestrator_pb2_grpc as rpc

_CALL_SECONDS = 20.0
_POLL_SECONDS = 0.05
# Its supervisor waits a second or two before it starts it again, and it takes as long to start.
_AWAY_SECONDS = 40.0
_ENDED = (pb.STATE_DONE, pb.STATE_FAILED, pb.STATE_CANCELLED, pb.STATE_ROLLED_BACK)

_Q = TypeVar("_Q", bound=Message)
_R = TypeVar("_R", bound=Message)
Condition = Callable[[pb.Migration], bool]


def quick(name: str, **migration: Any) -> dict[str, Any]:
    """A spec's machine with a delta pass each second, cut over only on request."""
    return files.spec_for(name, **{"delta_interval": 1, **migration})


class Client:
    """Calls with deadlines, and waiting by looking.

    Every call is idempotent, so it is repeated while the orchestrator is away: tests kill it.
    """

    def __init__(self, stub: rpc.OrchestratorServiceStub) -> None:
        self.stub = stub

    def submit(self, *vms: dict[str, Any]) -> list[pb.Migration]:
        """Submit machines of a spec and start them."""
        request = pb.SubmitSpecRequest(spec=yaml.safe_dump({"vms": list(vms)}), start=True)
        answer = _call(self.stub.SubmitSpec, request)
        return list(answer.migrations)

    def start(self, name: str, **migration: Any) -> pb.Migration:
        """Start one machine with passes each second."""
        return self.submit(quick(name, **migration))[0]

    def get(self, vm: str) -> pb.Migration:
        """The present snapshot of a machine's migration."""
        request = pb.GetMigrationRequest(selector=pb.Selector(vm_name=vm))
        return _call(self.stub.GetMigration, request).migration

    def wait(self, vm: str, condition: Condition, seconds: float = 40.0) -> pb.Migration:
        """Wait until ``condition`` holds; fails when the migration ends without it."""
        deadline = time.monotonic() + seconds
        while True:
            now = self.get(vm)
            if condition(now):
                return now
            assert now.state not in _ENDED, f"ended first:\n{now}"
            assert time.monotonic() < deadline, f"not within {seconds} s:\n{now}"
            time.sleep(_POLL_SECONDS)

    def wait_stage(self, vm: str, stage: pb.Stage.ValueType, seconds: float = 40.0) -> pb.Migration:
        """Wait until the migration is in ``stage``."""
        return self.wait(vm, lambda now: now.stage == stage, seconds)

    def wait_passes(self, vm: str, count: int, seconds: float = 40.0) -> pb.Migration:
        """Wait until ``count`` delta passes are done."""
        return self.wait(vm, lambda now: now.delta_passes >= count, seconds)

    def wait_state(self, vm: str, state: pb.State.ValueType, seconds: float = 60.0) -> pb.Migration:
        """Wait until the migration is in ``state``."""
        return self.wait(vm, lambda now: now.state == state, seconds)

    def wait_done(self, vm: str, seconds: float = 60.0) -> pb.Migration:
        """Wait until the machine is migrated."""
        return self.wait_state(vm, pb.STATE_DONE, seconds)

    def finalize(self, vm: str, *, now: bool = True) -> pb.Migration:
        """Ask for cutover."""
        request = pb.FinalizeMigrationRequest(selector=pb.Selector(vm_name=vm), now=now)
        return _call(self.stub.FinalizeMigration, request).migration

    def pause(self, vm: str) -> pb.Migration:
        """Ask for a pause."""
        request = pb.PauseMigrationRequest(selector=pb.Selector(vm_name=vm))
        return _call(self.stub.PauseMigration, request).migration

    def resume(self, vm: str) -> pb.Migration:
        """End a pause."""
        request = pb.ResumeMigrationRequest(selector=pb.Selector(vm_name=vm))
        return _call(self.stub.ResumeMigration, request).migration

    def retry(self, vm: str) -> pb.Migration:
        """Take a failed migration up again."""
        request = pb.RetryMigrationRequest(selector=pb.Selector(vm_name=vm))
        return _call(self.stub.RetryMigration, request).migration

    def cancel(self, vm: str) -> pb.Migration:
        """Ask for cancellation."""
        request = pb.CancelMigrationRequest(selector=pb.Selector(vm_name=vm))
        return _call(self.stub.CancelMigration, request).migration

    def rollback(self, vm: str) -> pb.Migration:
        """Ask for a rollback."""
        request = pb.RollbackMigrationRequest(selector=pb.Selector(vm_name=vm))
        return _call(self.stub.RollbackMigration, request).migration

    def events(self, vm: str) -> list[str]:
        """Actions of the audit trail, oldest first."""
        request = pb.ListEventsRequest(selector=pb.Selector(vm_name=vm))
        return [e.action for e in _call(self.stub.ListEvents, request).events]


def _call(method: grpc.UnaryUnaryMultiCallable[_Q, _R], request: _Q) -> _R:
    deadline = time.monotonic() + _AWAY_SECONDS
    while True:
        try:
            return method(request, timeout=_CALL_SECONDS)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                raise
            time.sleep(_POLL_SECONDS)


@contextmanager
def client_of(site: Site, tls: TlsFiles | None = None) -> Iterator[Client]:
    """A client of the site's orchestrator."""
    agents = site.content.get("agents", {})
    default = "unix:{control_dir}/run/orchestrator.sock"
    address = agents.get("orchestrator", default).replace("{control_dir}", str(site.control_dir))
    with connect_sync(address, tls) as channel:
        yield Client(rpc.OrchestratorServiceStub(channel))


def image_paths(migration: pb.Migration) -> list[Path]:
    """The images of a migration, by unit."""
    return [Path(disk.target_path) for disk in migration.disks]
