"""The command line that all services share, so that each service's main is three lines."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.config.config_model import Config
from services.config.loader import default_config_path, load_config
from services.config.problems import ConfigError
from services.config.show import show_config

__all__ = ["ServiceArgs", "service_main_args"]


@dataclass(frozen=True, slots=True)
class ServiceArgs:
    """`listen` is the address to serve on; `ready_file` is to be written when serving."""

    config: Config
    listen: str
    ready_file: Path | None


def service_main_args(service: str, argv: Sequence[str] | None = None) -> ServiceArgs:
    """Parse the arguments of `service` ("vmware", "disk", "cloudstack", "orchestrator", "gateway").

    Exits with 2 and the problems on standard error when the config is wrong; prints the effective
    configuration and exits with 0 for --show-config. Without --listen the address is the config's.
    """
    parser = argparse.ArgumentParser(description=f"v2c's {service} service")
    parser.add_argument("--config", type=Path, default=None, help="config.yaml to read")
    parser.add_argument("--listen", default=None, help="unix:PATH or host:port to serve on")
    parser.add_argument("--ready-file", type=Path, default=None, help="written when serving")
    parser.add_argument("--show-config", action="store_true", help="print the config and exit")
    args = parser.parse_args(argv)
    try:
        config = load_config(args.config or default_config_path())
    except ConfigError as exc:
        print(exc, file=sys.stderr)
        raise SystemExit(2) from exc
    if args.show_config:
        print(show_config(config), end="")
        raise SystemExit(0)
    listen = args.listen or _configured_address(config, service)
    return ServiceArgs(config=config, listen=listen, ready_file=args.ready_file)


def _configured_address(config: Config, service: str) -> str:
    if service == "gateway":
        return config.gateway.listen
    address: str = getattr(config.agents, service)
    return address
