"""Writing transfers' files from the event loop."""

import asyncio

import structlog

from services.disk_agent.transfers.transfer import Transfer, TransferStore

_log = structlog.stdlib.get_logger(__name__)


async def save_to_the_end(store: TransferStore, transfer: Transfer) -> None:
    """Save it, whoever gives up meanwhile: two at once would mix their files. Raises OSError."""
    saving = asyncio.create_task(asyncio.to_thread(store.save, transfer))
    try:
        await asyncio.shield(saving)
    except asyncio.CancelledError:
        await asyncio.wait([saving])
        raise


async def try_to_save(store: TransferStore, transfer: Transfer) -> None:
    """Save it; a state folder that takes nothing must not end what is at work."""
    try:
        await asyncio.to_thread(store.save, transfer)
    except OSError as error:
        _log.error(
            "a transfer was not saved",
            action="transfer.unsaved",
            transfer_id=transfer.id,
            exc_info=error,
        )
