"""Passes migrations' changes from the ticks' threads to streams on the event loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.orchestrator.database.store import Store
from services.orchestrator.database.views import MigrationView

__all__ = ["Changes", "Watch"]


class Changes:
    """The changes one stream has not sent yet: the newest snapshot of each migration, oldest first.

    A slow reader loses intermediate snapshots, never the last one.
    """

    def __init__(self) -> None:
        self._pending: dict[str, MigrationView] = {}
        self._ready = asyncio.Event()

    def put(self, snapshot: MigrationView) -> None:
        """Add a snapshot. Called in the event loop's thread only."""
        known = self._pending.pop(snapshot.id, None)
        newest = known if known and known.revision > snapshot.revision else snapshot
        self._pending[snapshot.id] = newest
        self._ready.set()

    async def get(self) -> MigrationView:
        """Wait for a snapshot and return the oldest."""
        while not self._pending:
            self._ready.clear()
            await self._ready.wait()
        return self._pending.pop(next(iter(self._pending)))


class Watch:
    """Passes the store's changes to any number of streams."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @asynccontextmanager
    async def changes(self) -> AsyncIterator[Changes]:
        """Subscribe to all changes from now on."""
        loop = asyncio.get_running_loop()
        changes = Changes()

        def listener(snapshot: MigrationView) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(changes.put, snapshot)

        end = self._store.listen(listener)
        try:
            yield changes
        finally:
            end()
