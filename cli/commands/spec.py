"""``v2c spec``: check spec files."""

import typer

from cli.options import ConfigOption, SpecsOption, config_from, spec_files
from cli.show.units import count
from services.config import load_specs, resolve_all

spec_app = typer.Typer(help="Check spec files.", no_args_is_help=True)


@spec_app.command("check")
def spec_check(spec: SpecsOption, config: ConfigOption = None) -> None:
    """Report the specs' mistakes with their lines, and missing ids.

    Whether a VM and its storage pools exist is checked by `v2c run` before it copies; all other
    ids are checked by CloudStack, at the import.

    \b
    Example:
      v2c spec check --spec web.yaml --spec db.yaml
    """
    loaded = config_from(config)
    specs = load_specs(*spec_files(spec, loaded))
    resolve_all(specs, loaded)
    for vm in specs:
        for warning in vm.warnings:
            typer.echo(f"warning: {warning}")
    names = ", ".join(vm.vm.name for vm in specs)
    typer.echo(f"{count(len(specs), 'VM')}: {names}")
