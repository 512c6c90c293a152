"""``python -m gateway --config C [--listen :8000] [--tls-certificate F --tls-key F]``."""

import argparse
import sys
from pathlib import Path

from gateway.http_server import HttpsFiles
from gateway.server import serve
from services.config.service_args import PROGRAMS, ServiceSetup, service_main


def main(argv: list[str] | None = None) -> int:
    """Run the gateway; returns the process' exit status."""
    parser = argparse.ArgumentParser(prog=PROGRAMS["gateway"], add_help=False, allow_abbrev=False)
    parser.add_argument("--tls-certificate", type=Path, help="PEM chain: serve HTTPS")
    parser.add_argument("--tls-key", type=Path, help="PEM key of the certificate")
    own, rest = parser.parse_known_args(argv)
    if (own.tls_certificate is None) != (own.tls_key is None):
        parser.error("--tls-certificate and --tls-key go together")
    https = HttpsFiles(own.tls_certificate, own.tls_key) if own.tls_certificate else None

    async def run(setup: ServiceSetup) -> None:
        await serve(setup, https)

    description = "REST API in front of the orchestrator"
    return service_main("gateway", description, run, rest, options=[parser])


if __name__ == "__main__":
    sys.exit(main())
