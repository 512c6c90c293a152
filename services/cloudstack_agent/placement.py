"""Lists placements: zones, clusters, pools, networks, offerings and OS types."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from services.cloudstack_agent.client.api import CloudStackApi, Row, child, list_rows, text


class PlacementKind(enum.Enum):
    """The kinds of placement. A value is CloudStack's list command and its answer's list key."""

    ZONE = ("listZones", "zone")
    CLUSTER = ("listClusters", "cluster")
    STORAGE_POOL = ("listStoragePools", "storagepool")
    NETWORK = ("listNetworks", "network")
    DISK_OFFERING = ("listDiskOfferings", "diskoffering")
    SERVICE_OFFERING = ("listServiceOfferings", "serviceoffering")
    OS_TYPE = ("listOsTypes", "ostype")

    @property
    def command(self) -> str:
        """CloudStack's list command."""
        return self.value[0]

    @property
    def list_key(self) -> str:
        """The name of the list in its answer."""
        return self.value[1]


# The kinds that belong to a zone.
_ZONED: Final = frozenset(PlacementKind) - {PlacementKind.ZONE, PlacementKind.OS_TYPE}
# The kinds of which CloudStack, without `listall`, lists only those the caller owns.
_LISTALL: Final = frozenset(
    {PlacementKind.NETWORK, PlacementKind.DISK_OFFERING, PlacementKind.SERVICE_OFFERING}
)
_OWN_FIELDS: Final = frozenset({"id", "name", "zoneid", "clusterid"})


@dataclass(frozen=True)
class Placement:
    """One placement; `attributes` are CloudStack's own fields, as text."""

    id: str
    name: str
    zone_id: str
    cluster_id: str
    attributes: Mapping[str, str]


async def list_placements(
    api: CloudStackApi, kind: PlacementKind, *, zone_id: str = "", name_part: str = ""
) -> list[Placement]:
    """All placements of one kind, sorted by name.

    With `zone_id` only those of this zone and offerings that belong to no zone. `name_part` is
    compared without regard to case.
    """
    parameters: dict[str, str] = {}
    if zone_id:
        if kind in _ZONED:
            parameters["zoneid"] = zone_id
        elif kind is PlacementKind.ZONE:
            parameters["id"] = zone_id
    if kind in _LISTALL:
        parameters["listall"] = "true"
    if kind is PlacementKind.CLUSTER:
        parameters["hypervisor"] = "KVM"
    rows = await list_rows(api, kind.command, kind.list_key, parameters)
    found = (_placement(row) for row in rows)
    wanted = name_part.casefold()
    return sorted(
        (entry for entry in found if wanted in entry.name.casefold()),
        key=lambda entry: (entry.name.casefold(), entry.id),
    )


def _placement(row: Row) -> Placement:
    return Placement(
        id=text(row, "id"),
        # An OS type has a description instead of a name.
        name=text(row, "name") or text(row, "description"),
        zone_id=text(row, "zoneid"),
        cluster_id=text(row, "clusterid"),
        attributes=dict(_attributes(row)),
    )


def _attributes(row: Row) -> Iterator[tuple[str, str]]:
    for key, value in row.items():
        if key in _OWN_FIELDS:
            continue
        if isinstance(value, Mapping):
            # CloudStack nests the limits of a constrained offering in an object.
            nested = child(row, key)
            yield from ((f"{key}.{name}", text(nested, name)) for name in nested)
        elif isinstance(value, str | int | float):
            yield key, text(row, key)
