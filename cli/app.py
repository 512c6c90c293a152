"""The subcommands of v2c, and how their errors are printed."""

import importlib.metadata
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.main import get_command

from cli.commands import config, controls, events, inventory, lab, pki, run, serve, spec, status
from cli.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    CommandError,
    UsageMistakeError,
    paragraph,
)
from services.config import ConfigError
from services.kit.failure import ServiceError
from services.kit.logging import LogSettings, configure_logging

__all__ = ["run_command"]

_HELP = """Move running VMs from VMware to Apache CloudStack/KVM with minutes of downtime.

\b
A first migration:
  v2c demo                                        see it work, nothing needed
  v2c config example > config.yaml                then fill it in
  v2c config check --config config.yaml
  v2c config example single-vm.defaults-only > web01.yaml
  v2c run --spec web01.yaml --config config.yaml  copies while the VM runs
  v2c finalize --vm web01 --config config.yaml    cutover, from another terminal

Every command explains itself: v2c COMMAND --help.
"""


def run_command(given: Sequence[str]) -> int:
    """Run the command line `given`; returns its exit status, as `cli.main.main` has it."""
    # A command reports by messages and exit status; only services write logs.
    configure_logging(LogSettings(stderr_format=None), service="cli")
    try:
        command = get_command(_app(given))
        status: object = command.main(list(given), prog_name="v2c", standalone_mode=False)
    except typer.TyperException as exc:
        if type(exc).__name__ == "NoArgsIsHelpError":  # Its message is the help itself.
            print(exc, file=sys.stderr)
        else:
            _print_error(_usage(exc))
        return EXIT_USAGE
    except ConfigError as exc:
        print(exc, file=sys.stderr)
        return EXIT_USAGE
    except (CommandError, ServiceError) as exc:
        _print_error(paragraph(exc))
        return EXIT_USAGE if isinstance(exc, UsageMistakeError) else EXIT_FAILED
    except BrokenPipeError:
        # `v2c events | head`: nobody reads any more, and Python's last flush must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except typer.Abort:
        return EXIT_INTERRUPTED
    return status if isinstance(status, int) else 0


def _print_error(text: str) -> None:
    print(f"v2c: {text}", file=sys.stderr)


def _usage(error: typer.TyperException) -> str:
    """A mistake in the arguments, and the help that explains them."""
    message = str(getattr(error, "message", error))
    parameter = getattr(error, "param", None)
    if parameter is not None:
        message = f"{parameter.opts[0]}: {message or 'is required and not given'}"
    context: typer.Context | None = getattr(error, "ctx", None)
    where = context.command_path if context else "v2c"
    return f"{message.rstrip('.')}. See {where} --help."


def _app(given: Sequence[str]) -> typer.Typer:
    app = typer.Typer(
        help=_HELP,
        no_args_is_help=True,
        # Plain help keeps the examples' line ends and can be piped.
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    app.command()(run.run)
    app.command()(status.status)
    app.command()(controls.finalize)
    app.command()(controls.shutdown)
    app.command()(controls.pause)
    app.command()(controls.resume)
    app.command()(controls.retry)
    app.command()(controls.cancel)
    app.command()(controls.rollback)
    app.command()(events.events)
    app.command("list")(inventory.list_inventory)
    app.command()(serve.serve)
    app.add_typer(config.config_app, name="config")
    app.add_typer(spec.spec_app, name="spec")
    app.add_typer(pki.pki_app, name="pki")
    app.command(context_settings=lab.PASS_THROUGH)(lab.demo)
    app.command(context_settings=lab.PASS_THROUGH)(lab.lab)
    _add_expert_commands(app, given)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"v2c {importlib.metadata.version('v2c')}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Take the options before a command."""


def _add_expert_commands(app: typer.Typer, given: Sequence[str]) -> None:
    # Imported when asked for: they need what only a storage host has installed.
    if not given or given[0] not in {"base-copy", "delta-sync"}:
        return
    from cli.commands import expert

    expert.require_expert_commands(given[0])
    app.command("base-copy", hidden=True)(expert.base_copy)
    app.command("delta-sync", hidden=True)(expert.delta_sync)
