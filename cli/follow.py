"""Watching migrations to their end, over restarts of the orchestrator."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Protocol, cast

from cli.connection import PEER, Stub
from cli.show.names import ENDED
from services.kit.channel import stream
from services.kit.errors import RemoteError
from v2c.orchestrator.v1 import orchestrator_pb2 as pb

__all__ = ["Display", "follow"]

_RETRY_SECONDS = 0.5
# A supervised orchestrator is back in seconds; after this long a person should look.
_PATIENCE_SECONDS = 180.0


class Display(Protocol):
    """Where progress is shown."""

    def show(self, migration: pb.Migration) -> None:
        """Take a snapshot, newer than the ones before."""
        ...

    def note(self, text: str) -> None:
        """Show a message beside the snapshots."""
        ...

    def end(self, migrations: list[pb.Migration]) -> None:
        """Show how everything ended."""
        ...


async def follow(
    stub: Stub,
    migrations: Sequence[pb.Migration],
    display: Display,
    clock: Callable[[], float],
) -> list[pb.Migration]:
    """Show `migrations` until each has ended; returns their last snapshots, in order.

    Reconnects when the orchestrator restarts. Raises RemoteError for other errors, and when it
    stays away for three minutes.
    """
    latest = {migration.id: migration for migration in migrations}
    for migration in migrations:
        display.show(migration)
    lost_at: float | None = None
    request = pb.WatchMigrationsRequest(
        selectors=[pb.Selector(migration_id=migration.id) for migration in migrations]
    )
    while _unfinished(latest):
        try:
            async with aclosing(_watch(stub, request)) as snapshots:
                async for snapshot in snapshots:
                    if lost_at is not None:
                        lost_at = None
                        display.note("the orchestrator is back")
                    migration = snapshot.migration
                    if migration.id not in latest:
                        continue
                    if migration.revision < latest[migration.id].revision:
                        continue
                    latest[migration.id] = migration
                    display.show(migration)
                    if not _unfinished(latest):
                        break
        except RemoteError as error:
            if not error.retryable:
                raise
            if lost_at is None:
                lost_at = clock()
                display.note("the orchestrator does not answer; waiting for it to come back")
            elif clock() - lost_at > _PATIENCE_SECONDS:
                raise
        if _unfinished(latest):
            await asyncio.sleep(_RETRY_SECONDS)
    return list(latest.values())


def _watch(
    stub: Stub, request: pb.WatchMigrationsRequest
) -> AsyncGenerator[pb.WatchMigrationsResponse, None]:
    responses = stream(stub.WatchMigrations(request), peer=PEER)
    # An async generator function's result, though its signature promises less.
    return cast(AsyncGenerator[pb.WatchMigrationsResponse, None], responses)


def _unfinished(latest: dict[str, pb.Migration]) -> bool:
    return any(migration.state not in ENDED for migration in latest.values())
