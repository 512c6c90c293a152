"""``v2c pki``: certificates for mutual TLS between hosts."""

from pathlib import Path
from typing import Annotated

import typer

from cli.errors import CommandError
from services.kit.pki import create_pki

pki_app = typer.Typer(help="Certificates for mutual TLS between hosts.", no_args_is_help=True)


@pki_app.command("init")
def pki_init(
    directory: Annotated[Path, typer.Option("--dir", help="Where the files go.")],
    name: Annotated[
        list[str], typer.Option("--name", help="One key pair for this name (host); repeatable.")
    ],
    host: Annotated[
        list[str] | None,
        typer.Option("--host", help="DNS name or IP address the services are reached at."),
    ] = None,
) -> None:
    """Create or renew a small CA and one key pair per name.

    Called again, the CA stays and the key pairs are made anew. Only ca.crt and the host's own
    two files need to be on a host; keep ca.key to yourself.

    \b
    Example:
      v2c pki init --dir /etc/v2c/pki --name storage1 --host storage1.example.com
    """
    try:
        create_pki(directory, name, host or [])
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise CommandError(f"--dir: {directory} cannot be written: {reason}") from exc
    typer.echo("tls:")
    typer.echo(f"  ca: {directory.absolute() / 'ca.crt'}")
    typer.echo(f"  certificate: {directory.absolute() / f'{name[0]}.crt'}")
    typer.echo(f"  key: {directory.absolute() / f'{name[0]}.key'}")
