"""Follows the demo's migrations over gRPC: requests the cutover, compares before conversion."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import grpc

from services.kit.channel import connect_sync
from services.kit.tls import TlsFiles
from v2c.orchestrator.v1 import orchestrator_pb2 as pb
from v2c.orchestrator.v1 import orchestrator_pb2_grpc as rpc

_CONNECT_SECONDS = 1.0
_CALL_SECONDS = 10.0

OnConverting = Callable[[pb.Migration], None]


class Watcher(threading.Thread):
    """Watches until stopped; `migrations` has each migration's last snapshot, by VM name."""

    def __init__(
        self, address: str, tls: TlsFiles, passes: int, on_converting: OnConverting
    ) -> None:
        super().__init__(name="demo-watcher", daemon=True)
        self.migrations: dict[str, pb.Migration] = {}
        self.failure: Exception | None = None
        self._address = address
        self._tls = tls
        self._passes = passes
        self._on_converting = on_converting
        self._ending = threading.Event()
        self._asked: set[str] = set()
        self._converting: set[str] = set()

    def stop(self) -> None:
        """Stop the thread and wait for it."""
        self._ending.set()
        self.join()

    def run(self) -> None:
        """Watch; reconnects, because the stack starts after this thread and ends before it."""
        while not self._ending.is_set():
            try:
                with connect_sync(self._address, self._tls) as channel:
                    self._follow(rpc.OrchestratorServiceStub(channel))
            except grpc.RpcError:
                self._ending.wait(_CONNECT_SECONDS / 2)
            except Exception as exc:  # A failed comparison is reported by the main thread.
                self.failure = exc
                return

    def _follow(self, stub: rpc.OrchestratorServiceStub) -> None:
        for update in stub.WatchMigrations(pb.WatchMigrationsRequest()):
            migration = update.migration
            self.migrations[migration.vm_name] = migration
            if migration.delta_passes >= self._passes and migration.id not in self._asked:
                self._asked.add(migration.id)
                stub.FinalizeMigration(
                    pb.FinalizeMigrationRequest(
                        selector=pb.Selector(migration_id=migration.id), now=True
                    ),
                    timeout=_CALL_SECONDS,
                )
            if migration.stage == pb.STAGE_CONVERTING and migration.id not in self._converting:
                self._converting.add(migration.id)
                self._on_converting(migration)
                self._require_still_converting(stub, migration)
            if self._ending.is_set():
                return

    def _require_still_converting(
        self, stub: rpc.OrchestratorServiceStub, before: pb.Migration
    ) -> None:
        """Check that the conversion has not ended: only then was the unconverted image compared."""
        request = pb.GetMigrationRequest(selector=pb.Selector(migration_id=before.id))
        now = stub.GetMigration(request, timeout=_CALL_SECONDS).migration
        if now.stage != pb.STAGE_CONVERTING:
            raise RuntimeError(f"{before.vm_name} was converted before its image was compared")


def target_paths(migration: pb.Migration) -> dict[int, Path]:
    """A migration's image paths, by vCenter's device key."""
    return {disk.key: Path(disk.target_path) for disk in migration.disks}
