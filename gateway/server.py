"""The composition root: configuration in, a serving gateway out."""

import asyncio
import os
import sys
from pathlib import Path

import structlog

from gateway.admin_token import AdminToken, chosen_token, load_or_create_token
from gateway.app import create_app
from gateway.http_server import HttpsFiles, bound_socket, serve_http
from gateway.orchestrator import PEER
from services.config.service_args import ServiceSetup
from services.kit.channel import connect
from services.kit.processes.service import write_ready_file

TOKEN_VARIABLE = "V2C_ADMIN_TOKEN"  # noqa: S105 - the variable's name
# Reads and requests are answered from the orchestrator's database.
_DEFAULT_TIMEOUT_SECONDS = 15.0

_log = structlog.stdlib.get_logger(__name__)


async def serve(setup: ServiceSetup, https: HttpsFiles | None) -> None:
    """Serve the API until SIGTERM. Raises ServiceError when that cannot begin."""
    if setup.ready_file is not None:
        setup.ready_file.unlink(missing_ok=True)  # of an earlier process that was killed
    if https is not None:
        await asyncio.to_thread(https.check)
    with bound_socket(setup.listen) as (listener, address):
        token = await asyncio.to_thread(_token, setup.config.migration.control_dir / "gateway")
        if https is None and not address.is_local:
            _log.warning(
                "the token travels unprotected: other machines reach this address without HTTPS",
                action="gateway.plain_http",
                address=str(address),
            )

        def on_ready() -> None:
            if setup.ready_file is not None:
                write_ready_file(setup.ready_file, str(address))
            _log.info("serving", action="service.serving", address=str(address))

        async with connect(
            setup.config.agents.orchestrator,
            setup.tls,
            default_timeout_seconds=_DEFAULT_TIMEOUT_SECONDS,
            name=PEER,
        ) as channel:
            try:
                await serve_http(create_app(channel, token), listener, https, on_ready)
            finally:
                if setup.ready_file is not None:
                    setup.ready_file.unlink(missing_ok=True)
    _log.info("stopped", action="service.stopped")


def _token(directory: Path) -> AdminToken:
    chosen = os.environ.get(TOKEN_VARIABLE)
    if chosen:
        return chosen_token(chosen)
    token, text = load_or_create_token(directory)
    if text is not None:
        # Printed once, for a person, and never logged: it cannot be read again anywhere.
        sys.stdout.write(
            f"Admin token (shown only now, keep it): {text}\n"
            f"Use it as: curl -H 'Authorization: Bearer {text}' …\n"
        )
        sys.stdout.flush()
    return token
