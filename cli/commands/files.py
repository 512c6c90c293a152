"""``v2c config``, ``v2c spec`` and ``v2c pki``: the files an operator writes or needs."""

from pathlib import Path
from typing import Annotated

import typer

from cli.commands.run import check_vddk
from cli.errors import CommandError, UsageMistakeError, paragraph
from cli.options import ConfigOption, SpecsOption, config_from, spec_files
from cli.words import count
from services.config import ConfigError, Secret, load_specs, resolve, show_config
from services.config.problems import Problem
from services.config.service_args import tls_files
from services.kit.pki import create_pki

__all__ = ["config_app", "pki_app", "spec_app"]

config_app = typer.Typer(help="Check, show or begin a config.yaml.", no_args_is_help=True)
spec_app = typer.Typer(help="Check spec files.", no_args_is_help=True)
pki_app = typer.Typer(help="Certificates for mutual TLS between hosts.", no_args_is_help=True)

_PACKAGE = Path(__file__).parents[1]


@config_app.command("check")
def config_check(config: ConfigOption = None) -> None:
    """Report the config's mistakes with their lines, and missing secrets.

    \b
    Example:
      v2c config check --config config.yaml
    """
    loaded = config_from(config)
    secrets = (
        loaded.vcenter.password,
        loaded.cloudstack.api_key,
        loaded.cloudstack.secret_key,
        loaded.database.url,
    )
    problems: list[Problem] = []
    for secret in secrets:
        problems += _problems_of(secret)
    if problems:
        raise ConfigError(tuple(problems))
    tls = tls_files(loaded)
    if tls is not None:
        tls.check()
    for warning in loaded.warnings:
        typer.echo(f"warning: {warning}")
    try:
        check_vddk(loaded)
    except CommandError as exc:
        # No mistake on a host that only has this file to look at it.
        typer.echo(f"warning: {paragraph(exc)}")
        typer.echo(f"{loaded.path}: good, but nothing can be copied from this host")
        return
    typer.echo(f"{loaded.path}: good")


@config_app.command("show")
def config_show(config: ConfigOption = None) -> None:
    """Print what is in force, defaults included, secrets hidden."""
    typer.echo(show_config(config_from(config)), nl=False)


@config_app.command("example")
def config_example(
    name: Annotated[
        str, typer.Argument(help="config, or a spec template; list names them.")
    ] = "config",
) -> None:
    """Print a commented example to start from.

    \b
    Examples:
      v2c config example > config.yaml
      v2c config example list
      v2c config example single-vm.defaults-only > web01.yaml
    """
    files = {
        path.name.removeprefix("spec.").removesuffix(".yaml"): path
        for path in sorted(_examples().glob("*.yaml"))
    }
    if name == "list":
        typer.echo("\n".join(files))
        return
    if name not in files:
        raise UsageMistakeError(f"there is no example {name!r}", f"There are {', '.join(files)}.")
    typer.echo(files[name].read_text(encoding="utf-8"), nl=False)


@spec_app.command("check")
def spec_check(spec: SpecsOption, config: ConfigOption = None) -> None:
    """Report the specs' mistakes with their lines, and missing ids.

    Whether a VM and its pools exist is found out by `v2c run` before it copies; the other ids are
    CloudStack's to check, at the import.

    \b
    Example:
      v2c spec check --spec web.yaml --spec db.yaml
    """
    loaded = config_from(config)
    specs = load_specs(*spec_files(spec, loaded))
    problems: list[Problem] = []
    for vm in specs:
        try:
            resolve(vm, loaded)
        except ConfigError as exc:
            problems += exc.problems
    if problems:
        raise ConfigError(tuple(problems))
    for vm in specs:
        for warning in vm.warnings:
            typer.echo(f"warning: {warning}")
    names = ", ".join(vm.vm.name for vm in specs)
    typer.echo(f"{count(len(specs), 'VM')}: {names}")


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


def _problems_of(secret: Secret) -> tuple[Problem, ...]:
    try:
        secret.get_secret_value()
    except ConfigError as exc:
        return exc.problems
    return ()


def _examples() -> Path:
    """In an installed package beside this one's modules, in a checkout at its root."""
    packaged = _PACKAGE / "examples"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "examples"
