"""The start of every service's process: its arguments, its config, its TLS files, its exit.

Not part of `services.config` itself, since it needs gRPC by way of `services.kit`. A service's
``server.py`` is the only place that imports it::

    async def serve(setup: ServiceSetup) -> None:
        await run_service("disk agent", setup.listen, setup.tls, register,
                          ready_file=setup.ready_file)

    def main() -> int:
        return service_main("disk", "copies disks to QCOW2 files", serve)
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from services.config.config_model import Config
from services.config.loader import load_config
from services.config.problems import ConfigError
from services.config.secret import mask_secrets
from services.config.show import show_config
from services.kit.entry import ServiceArguments, parse_service_arguments, run_entry
from services.kit.logging import LogSettings
from services.kit.tls import TlsFiles

__all__ = ["PROGRAMS", "ServiceName", "ServiceSetup", "service_main", "tls_files"]

ServiceName = Literal["vmware", "disk", "cloudstack", "orchestrator", "gateway"]

# Their commands, as pyproject.toml has them.
PROGRAMS: Mapping[ServiceName, str] = {
    "vmware": "v2c-vmware-agent",
    "disk": "v2c-disk-agent",
    "cloudstack": "v2c-cloudstack-agent",
    "orchestrator": "v2c-orchestrator",
    "gateway": "v2c-gateway",
}

# sysexits.h, EX_CONFIG: a supervisor need not start such a process again.
EXIT_CONFIG = 78


@dataclasses.dataclass(frozen=True, slots=True)
class ServiceSetup:
    """What a service is to do: serve on `listen` with `tls`, then write `ready_file`.

    `metrics_listen` is the address of its metrics, None for none.
    """

    config: Config
    listen: str
    tls: TlsFiles | None
    ready_file: Path | None
    metrics_listen: str | None = None


def service_main(
    service: ServiceName,
    description: str,
    serve: Callable[[ServiceSetup], Coroutine[Any, Any, None]],
    argv: Sequence[str] | None = None,
    options: Sequence[argparse.ArgumentParser] = (),
) -> int:
    """Read the arguments and the config, then run `serve`; returns the process' exit status.

    Arguments are those of `services.kit.entry`, plus ``--show-config``, which prints the effective
    configuration with secrets hidden. Without ``--listen`` the config's address for this service
    is taken, without ``--log-…`` its logging section. `options` are parsers of options that the
    caller has taken from `argv` itself, for ``--help``. Secrets in the config are masked in what
    the process writes, those of other services too. A ConfigError, also one that `serve` raises,
    goes to standard error without a traceback, and the status is 78.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--show-config",
        action="store_true",
        help="print the configuration in force, secrets hidden, and end",
    )
    own, rest = parser.parse_known_args(sys.argv[1:] if argv is None else list(argv))
    arguments = parse_service_arguments(
        PROGRAMS[service], description, rest, own=(*options, parser)
    )
    try:
        config = load_config(arguments.config)
        if own.show_config:
            print(show_config(config), end="")
            return 0
        mask_secrets(config)
        arguments = dataclasses.replace(
            arguments, log=_log_settings(arguments.log, config, given=rest)
        )
        setup = ServiceSetup(
            config=config,
            listen=arguments.listen or _configured_address(config, service),
            tls=tls_files(config),
            ready_file=arguments.ready_file,
            metrics_listen=getattr(config.metrics, service, None),
        )

        async def run(_arguments: ServiceArguments) -> None:
            await serve(setup)

        return run_entry(service, arguments, run)
    except ConfigError as exc:
        print(exc, file=sys.stderr)
        return EXIT_CONFIG


def tls_files(config: Config) -> TlsFiles | None:
    """The key pair of this host, for servers and clients alike; None without a tls section."""
    if config.tls is None:
        return None
    return TlsFiles(ca=config.tls.ca, certificate=config.tls.certificate, key=config.tls.key)


def _configured_address(config: Config, service: ServiceName) -> str:
    if service == "gateway":
        return config.gateway.listen
    address: str = getattr(config.agents, service)
    return address


def _log_settings(log: LogSettings, config: Config, *, given: Sequence[str]) -> LogSettings:
    """The command line's settings where it gave any, the config's otherwise."""
    names = {argument.split("=", 1)[0] for argument in given}
    if "--log-level" not in names:
        level: Any = config.logging.level.upper()
        log = dataclasses.replace(log, level=level)
    if "--log-format" not in names:
        form: Any = config.logging.format
        if form == "auto":
            form = "console" if sys.stderr.isatty() else "json"
        log = dataclasses.replace(log, stderr_format=form)
    return log
