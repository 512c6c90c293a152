"""``v2c lab`` and ``v2c demo``: hand over to the lab, which this package does not import."""

import importlib.util
import os
import sys

import typer

from cli.errors import CommandError

__all__ = ["PASS_THROUGH", "demo", "lab"]

# Everything behind the command's name is the lab's own to understand, --help too.
PASS_THROUGH = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}


def demo(context: typer.Context) -> None:
    """Migrate two running VMs in a lab here, and prove the result."""
    _become_lab(["demo", *context.args])


def lab(context: typer.Context) -> None:
    """Run a lab vCenter and CloudStack on this host: up, down, status."""
    _become_lab(context.args)


def _become_lab(arguments: list[str]) -> None:
    if importlib.util.find_spec("lab") is None:
        raise CommandError("the lab is not installed", "Install it: pip install 'v2c[lab]'.")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "lab", *arguments])  # noqa: S606
