"""The command line of every service's process, and its exit with a readable error."""

import argparse
import asyncio
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import structlog

from services.kit.failure import ServiceError
from services.kit.logging import Format, LogSettings, configure_logging
from services.kit.processes.service import exit_with_parent
from services.kit.redact import redactor

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class ServiceArguments:
    """What a supervisor, or an operator, sets on the command line of a service's process.

    `config` is the configuration file, `listen` overrides the address in it, `ready_file` gets the
    bound address, `parent_pid` binds the process' life to its supervisor's.
    """

    config: Path
    listen: str | None
    ready_file: Path | None
    parent_pid: int | None
    log: LogSettings


def parse_service_arguments(
    program: str,
    description: str,
    argv: list[str] | None = None,
    own: Sequence[argparse.ArgumentParser] = (),
) -> ServiceArguments:
    """Parse ``--config --listen --ready-file --parent-pid --log-level --log-format --log-file``.

    `own` are parsers of the service's own options, which its ``--help`` shows too.
    Exits with status 2 and a usage line for anything else, as argparse does.
    """
    parser = argparse.ArgumentParser(prog=program, description=description, parents=own)
    parser.add_argument("--config", type=Path, required=True, help="configuration file (YAML)")
    parser.add_argument("--listen", help="unix:/path or host:port instead of the configured one")
    parser.add_argument(
        "--ready-file", type=Path, help='gets {"address", "pid"} once the service is ready'
    )
    parser.add_argument(
        "--parent-pid", type=int, help="stop when this process, which started us, is gone"
    )
    parser.add_argument("--log-level", choices=_LEVELS, default="INFO")
    parser.add_argument("--log-format", choices=("console", "json", "none"), default="console")
    parser.add_argument("--log-file", type=Path, help="also log there, as JSON lines")
    given = parser.parse_args(argv)
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = given.log_level
    form: Format | None = None if given.log_format == "none" else given.log_format
    return ServiceArguments(
        config=given.config,
        listen=given.listen,
        ready_file=given.ready_file,
        parent_pid=given.parent_pid,
        log=LogSettings(level=level, stderr_format=form, file=given.log_file),
    )


def run_entry(
    service: str,
    arguments: ServiceArguments,
    main: Callable[[ServiceArguments], Coroutine[Any, Any, None]],
) -> int:
    """Configure logging, bind to the parent, run `main`; returns the process' exit status.

    0 after a graceful stop; 1 after a ServiceError, whose message and hint go to stderr as one
    paragraph, without a traceback; 130 when interrupted a second time while stopping. Anything
    else is a defect and raises; its traceback goes to stderr with secrets masked.
    """
    configure_logging(arguments.log, service=service)
    sys.excepthook = print_masked
    threading.excepthook = _print_masked_of_thread
    if arguments.parent_pid is not None:
        exit_with_parent(arguments.parent_pid)
    try:
        asyncio.run(main(arguments))
    except ServiceError as error:
        _log.error("cannot run", action="service.failed", reason=error.reason, error=error.message)
        paragraph = f"{service}: {error.message}"
        if error.hint:
            paragraph += f" ({error.hint})"
        print(redactor.text(paragraph), file=sys.stderr)
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        return 130
    return 0


def print_masked(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    """Print an uncaught exception's traceback to stderr, with secrets masked."""
    lines = traceback.format_exception(kind, error, trace)
    print(redactor.text("".join(lines)), end="", file=sys.stderr)


def _print_masked_of_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit:
        print_masked(args.exc_type, args.exc_value, args.exc_traceback)
