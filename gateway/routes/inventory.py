"""What is at the source, and what machines can be placed on at the target."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from gateway import models, translation
from gateway.routes import FromOrchestrator, problems

router = APIRouter()


@router.get("/vmware/vms", tags=["inventory"], responses=problems())
async def list_source_vms(
    orchestrator: FromOrchestrator,
    text: Annotated[
        str,
        Query(alias="filter", description="Only machines whose name or path contains this text."),
    ] = "",
) -> models.SourceVms:
    """List the virtual machines of the vCenter in config.yaml, with disks and adapters.

    `unit` of a disk and `key` of an adapter are the numbers a spec uses.
    """
    vms = [translation.source_vm(vm) for vm in await orchestrator.source_vms(text)]
    return models.SourceVms(count=len(vms), vms=vms)


@router.get("/cloudstack/{kind}", tags=["inventory"], responses=problems())
async def list_placements(
    orchestrator: FromOrchestrator,
    kind: Annotated[models.PlacementKind, Path(description="What to list.")],
    zoneid: Annotated[str, Query(description="Only in this zone.")] = "",
    clusterid: Annotated[str, Query(description="Only in this cluster.")] = "",
    text: Annotated[
        str, Query(alias="filter", description="Only names that contain this text.")
    ] = "",
) -> models.Placements:
    """List what machines can be placed on in CloudStack; a spec takes the `id`s."""
    items = [
        translation.placement(entry)
        for entry in await orchestrator.placements(kind, zoneid, text)
        if not clusterid or entry.cluster_id == clusterid
    ]
    return models.Placements(kind=kind, count=len(items), items=items)
