"""Polls the runtime directories for marker files and makes the requests they stand for."""

import threading
from pathlib import Path

import structlog

from services.kit.failure import ServiceError
from services.orchestrator.controls.controls import Controls
from services.orchestrator.database.store import Store
from services.orchestrator.markers import remove_marker, requests_in

__all__ = ["MarkerWatch"]

# An operator's request reaches a waiting migration within a second.
_POLL_SECONDS = 0.5

_log = structlog.stdlib.get_logger(__name__)


class MarkerWatch:
    """Polls in a thread of its own: listing directories may block on a slow file system."""

    def __init__(self, store: Store, controls: Controls) -> None:
        self._store = store
        self._controls = controls
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="markers", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; blocks until it has ended."""
        self._stop.set()
        self._thread.join()

    def look(self) -> None:
        """Poll once the directory of every migration that has not ended."""
        for migration_id, path in self._store.runtime_dirs():
            directory = Path(path)
            for request in requests_in(directory):
                try:
                    self._controls.act_on(migration_id, request, f"marker file in {path}")
                except ServiceError as exc:
                    _log.warning(
                        exc.message,
                        action="marker.refused",
                        request=request,
                        migration_id=migration_id,
                    )
                remove_marker(directory, request)

    def _run(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            try:
                self.look()
            except Exception:  # The watch outlives any single failure, and logs it.
                _log.exception("marker files could not be read", action="marker.failed")
