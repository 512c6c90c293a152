"""Options that several commands share, and loading what they name."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cli.errors import CommandError, UsageMistakeError
from services.config import Config, VmSpec, default_config_path, load_config

__all__ = [
    "ConfigOption",
    "JsonOption",
    "MorefOption",
    "ServerOption",
    "SpecsOption",
    "VmOption",
    "config_from",
    "spec_files",
    "spec_of_vm",
]

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="config.yaml; otherwise $V2C_CONFIG, ./config.yaml or /etc/v2c/config.yaml.",
        show_default=False,
    ),
]
SpecsOption = Annotated[
    list[Path],
    typer.Option(
        "--spec",
        help="Spec file of one or more VMs, here or in the config's migration.specs_dir; "
        "may be given several times.",
    ),
]
ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server",
        help="Address of a running orchestrator (unix:PATH or host:port); otherwise the config's.",
        show_default=False,
    ),
]
VmOption = Annotated[str | None, typer.Option("--vm", help="Only this VM, by name or moref.")]
MorefOption = Annotated[
    str | None, typer.Option("--vm-id", help="The VM's moref, where several have the name.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def config_from(path: Path | None) -> Config:
    """The config a command was given, or the default one. Raises ConfigError or CommandError."""
    chosen = path or default_config_path()
    if path is None and not chosen.exists() and "V2C_CONFIG" not in os.environ:
        raise UsageMistakeError(
            f"there is no config: neither ./config.yaml nor {chosen}",
            "Begin one with `v2c config example > config.yaml`, or name yours with --config.",
        )
    return load_config(chosen)


def spec_files(paths: Sequence[Path], config: Config) -> list[Path]:
    """The spec files meant: what is not in the current folder may be in migration.specs_dir."""
    return [_found(path, config.migration.specs_dir / path) for path in paths]


def _found(here: Path, there: Path) -> Path:
    return there if not here.exists() and there.is_file() else here


def spec_of_vm(specs: Sequence[VmSpec], vm: str, moref: str | None) -> VmSpec:
    """The one VM of `specs` with the name (or moref) `vm`. Raises CommandError."""
    found = [
        spec
        for spec in specs
        if vm in (spec.vm.name, spec.vm.moref) and moref in (None, spec.vm.moref)
    ]
    names = ", ".join(repr(spec.vm.name) for spec in specs)
    if not found:
        wanted = f"{vm!r} ({moref})" if moref else repr(vm)
        raise CommandError(f"no VM {wanted} is in the spec", f"It has {names}.")
    if len(found) > 1:
        morefs = ", ".join(str(spec.vm.moref) for spec in found)
        raise CommandError(
            f"the spec has {len(found)} VMs named {vm!r}", f"Choose one with --vm-id: {morefs}."
        )
    return found[0]
