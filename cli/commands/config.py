"""``v2c config``: check, show or begin a config.yaml."""

from pathlib import Path
from typing import Annotated

import typer

from cli.commands.run import check_vddk
from cli.errors import CommandError, UsageMistakeError, paragraph
from cli.options import ConfigOption, config_from
from services.config import ConfigError, Secret, show_config
from services.config.problems import Problem
from services.config.service_args import tls_files

config_app = typer.Typer(help="Check, show or begin a config.yaml.", no_args_is_help=True)


_PACKAGE = Path(__file__).parents[1]


@config_app.command("check")
def config_check(config: ConfigOption = None) -> None:
    """Report mistakes in a config.yaml, and missing secrets.

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
        # No mistake on a host where the file is only written or checked.
        typer.echo(f"warning: {paragraph(exc)}")
        typer.echo(f"{loaded.path}: good, but this host cannot copy")
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
