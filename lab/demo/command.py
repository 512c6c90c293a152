"""``python -m lab demo``, which ``v2c demo`` runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lab.demo.run import run_demo


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the lab's disks, images, logs and databases.")
    ] = False,
    result: Annotated[
        Path, typer.Option(help="The file for the result, as JSON.", dir_okay=False)
    ] = Path("build/demo.json"),
) -> None:
    """Migrate two running VMs from the lab's vCenter to its CloudStack, and prove the result.

    One VM is a small Linux guest that virt-v2v really converts; the other has three disks and two
    adapters but no operating system. Both are written to until their shutdown. Before the
    conversion every image is compared block by block with the source. Exit code 0 only if both VMs
    are migrated and every comparison finds no difference.
    """
    if not run_demo(result, keep=keep, report=typer.echo):
        raise typer.Exit(1)
