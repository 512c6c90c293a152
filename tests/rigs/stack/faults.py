"""Faults of the lab for the time of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lab.stack import Lab
from v2c.orchestrator.v1 import orchestrator_pb2 as pb


@contextmanager
def slow_reads(lab: Lab, vm: str, milliseconds: int = 400) -> Iterator[None]:
    """Every read of a machine's disks takes long, so that a copy can be met in the middle."""
    moref = lab.vm(vm)["moref"]
    armed = {"kind": "latency", "vm": moref, "count": 0, "milliseconds": milliseconds}
    number = lab.esxi.call("inject_fault", **armed)["number"]
    try:
        yield
    finally:
        lab.esxi.call("clear_faults", number=number)


def in_mid_copy(now: pb.Migration) -> bool:
    """Whether a full copy has written something and has more to do."""
    return now.stage == pb.STAGE_BASE_COPY and any(
        0 < disk.done_bytes < disk.total_bytes for disk in now.disks
    )
