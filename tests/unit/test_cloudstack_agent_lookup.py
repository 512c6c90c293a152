"""Look-ups against prepared answers: paging, pools, names, refusals."""

from __future__ import annotations

from typing import Any

import pytest

from services.cloudstack_agent.client.api import Row, list_rows, number, text
from services.cloudstack_agent.client.refusals import refusal
from services.cloudstack_agent.connection import check_connection
from services.cloudstack_agent.errors import (
    CloudStackAnswerInvalid,
    CloudStackCommandMissing,
    CloudStackParameterRefused,
    StoragePoolNotReady,
    StoragePoolUnsupported,
    VmAmbiguous,
    VmNotFound,
)
from services.cloudstack_agent.inventory import vm_by_name
from services.cloudstack_agent.placement import PlacementKind, list_placements
from services.cloudstack_agent.storage_pools import NfsOptions, resolve_storage_pool
from tests.rigs.fakes.cloudstack_api import StubApi, pages

NO_OPTIONS = NfsOptions("", on_ubuntu=False)


async def test_lists_are_read_to_their_end() -> None:
    rows: list[Row] = [{"id": str(index)} for index in range(1001)]
    api = StubApi({"listVolumes": pages("volume", rows)})
    assert await list_rows(api, "listVolumes", "volume", {"listall": "true"}) == rows
    assert [call["page"] for call in api.sent("listVolumes")] == ["1", "2", "3"]
    assert all(call["pagesize"] == "500" for call in api.sent("listVolumes"))


async def test_a_full_last_page_is_no_reason_to_miss_rows() -> None:
    api = StubApi({"listZones": pages("zone", [{"id": str(index)} for index in range(500)])})
    assert len(await list_rows(api, "listZones", "zone")) == 500


async def test_a_list_that_is_none_is_refused() -> None:
    api = StubApi({"listZones": {"zone": "many"}})
    with pytest.raises(CloudStackAnswerInvalid):
        await list_rows(api, "listZones", "zone")


def test_values_are_read_whatever_their_type() -> None:
    row: Row = {"a": 1, "b": "2", "c": True, "d": None, "e": "x"}
    assert [text(row, key) for key in "abcdz"] == ["1", "2", "true", "", ""]
    assert [number(row, key, -1) for key in "abez"] == [1, 2, -1, -1]


def _pool(**changed: Any) -> dict[str, Any]:
    return {
        "id": "pool-1",
        "name": "primary",
        "type": "NetworkFilesystem",
        "state": "Up",
        "scope": "ZONE",
        "zoneid": "zone-1",
        "ipaddress": "192.0.2.7",
        "path": "/export/primary",
    } | changed


def _pools(*rows: dict[str, Any]) -> StubApi:
    return StubApi({"listStoragePools": pages("storagepool", list(rows))})


@pytest.mark.parametrize(
    ("changed", "source"),
    [
        ({}, "192.0.2.7:/export/primary"),
        ({"ipaddress": "2001:db8::7"}, "[2001:db8::7]:/export/primary"),
        (
            {"ipaddress": "", "path": "nfs://nas.example/export/a%20b?x=1"},
            "nas.example:/export/a b",
        ),
        ({"ipaddress": "nfs://nas.example/export", "path": ""}, "nas.example:/export"),
    ],
)
async def test_nfs_sources(changed: dict[str, Any], source: str) -> None:
    pool = await resolve_storage_pool(_pools(_pool(**changed)), "pool-1", NO_OPTIONS)
    assert (pool.source, pool.path, pool.import_source) == (source, "/mnt/pool-1", "shared")


async def test_the_pools_own_nfs_options_are_taken() -> None:
    api = _pools(_pool(nfsmountopts="vers=4.1"))
    assert (await resolve_storage_pool(api, "pool-1", NO_OPTIONS)).options == "vers=4.1"


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"state": "Maintenance"}, StoragePoolNotReady),
        ({"type": "RBD"}, StoragePoolUnsupported),
        ({"path": ""}, StoragePoolUnsupported),
        ({"type": "Filesystem", "path": "relative"}, StoragePoolUnsupported),
    ],
)
async def test_pools_that_cannot_be_written_are_refused(
    changed: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await resolve_storage_pool(_pools(_pool(**changed)), "pool-1", NO_OPTIONS)


async def test_a_mount_point_pool_of_an_older_cloudstack_is_refused_early() -> None:
    api = StubApi(
        {
            "listStoragePools": pages("storagepool", [_pool(type="SharedMountPoint")]),
            "listCapabilities": {"capability": {"cloudstackversion": "4.22.0.0"}},
        }
    )
    with pytest.raises(StoragePoolUnsupported, match=r"CloudStack 4\.22\.0\.0 imports no VM"):
        await resolve_storage_pool(api, "pool-1", NO_OPTIONS)


async def test_a_local_pools_host_is_found_among_equal_addresses() -> None:
    def pools(parameters: Any) -> Row:
        local = _pool(type="Filesystem", scope="HOST", path="/var/lib/libvirt/images")
        return {"storagepool": [local] if parameters.get("hostid") != "host-1" else []}

    hosts: list[Row] = [{"id": f"host-{n}", "ipaddress": "192.0.2.7"} for n in (1, 2)]
    api = StubApi({"listStoragePools": pools, "listHosts": pages("host", hosts)})
    pool = await resolve_storage_pool(api, "pool-1", NO_OPTIONS)
    assert (pool.import_source, pool.host_id) == ("local", "host-2")


async def test_an_account_without_import_is_refused_at_the_connection_check() -> None:
    api = StubApi(
        {
            "listCapabilities": {"capability": {"cloudstackversion": "4.22.1.0"}},
            "listApis": {},
        }
    )
    with pytest.raises(CloudStackCommandMissing):
        await check_connection(api)


def _vms(*rows: dict[str, Any]) -> StubApi:
    return StubApi({"listVirtualMachines": pages("virtualmachine", list(rows)), "listVolumes": {}})


async def test_names_are_compared_whole() -> None:
    api = _vms(
        {"id": "1", "name": "web-10", "displayname": "web-10"},
        {"id": "2", "name": "web-1-vm-7", "displayname": "web-1"},
        {"id": "3", "name": "web-1", "displayname": "gone", "state": "Destroyed"},
    )
    assert (await vm_by_name(api, "web-1")).id == "2"
    with pytest.raises(VmNotFound):
        await vm_by_name(api, "web")


async def test_an_ambiguous_name_is_refused_with_the_ids() -> None:
    api = _vms(
        {"id": "1", "name": "web-1", "displayname": "a"},
        {"id": "2", "name": "b", "displayname": "web-1"},
    )
    with pytest.raises(VmAmbiguous) as refused:
        await vm_by_name(api, "web-1")
    assert refused.value.metadata["vms"] == "1, 2"


async def test_placements_carry_cloudstacks_own_fields() -> None:
    rows: list[Row] = [
        {"id": "2", "name": "Small", "cpunumber": 1, "iscustomized": False, "tags": ["x"]},
        {"id": "1", "name": "big", "serviceofferingdetails": {"maxmemory": "8192"}},
    ]
    api = StubApi({"listServiceOfferings": pages("serviceoffering", rows)})
    found = await list_placements(api, PlacementKind.SERVICE_OFFERING, zone_id="zone-1")
    assert [entry.name for entry in found] == ["big", "Small"]
    assert found[0].attributes == {"serviceofferingdetails.maxmemory": "8192"}
    assert found[1].attributes == {"cpunumber": "1", "iscustomized": "false"}
    (call,) = api.sent("listServiceOfferings")
    assert (call["zoneid"], call["listall"]) == ("zone-1", "true")


@pytest.mark.parametrize(
    ("code", "error_text", "reason", "retryable"),
    [
        (401, "unable to verify", "CLOUDSTACK_LOGIN_FAILED", False),
        (431, "Disk image is already in use", "DISK_IN_USE", False),
        (530, "Volume is already managed by CloudStack: x", "DISK_IN_USE", False),
        (530, "Locked volume cannot be imported or unmanaged.", "DISK_LOCKED", True),
        (530, "Disk not found or is invalid", "DISK_INVALID", False),
        (431, "anything else", "CLOUDSTACK_PARAMETER_REFUSED", False),
        (432, "no such command", "CLOUDSTACK_COMMAND_MISSING", False),
        (531, "no", "CLOUDSTACK_PERMISSION_DENIED", False),
        (532, "limit", "CLOUDSTACK_LIMIT_REACHED", False),
        (533, "capacity", "CLOUDSTACK_CAPACITY_EXHAUSTED", False),
        (537, "network", "CLOUDSTACK_FAILED", True),
        (530, "", "CLOUDSTACK_FAILED", False),
        (599, "new", "CLOUDSTACK_FAILED", False),
    ],
)
def test_refusals_have_reasons(code: int, error_text: str, reason: str, retryable: bool) -> None:
    error = refusal("importVm", code, error_text)
    assert (error.reason, error.retryable) == (reason, retryable)
    assert error.metadata == {
        "command": "importVm",
        "errorcode": str(code),
        "errortext": error_text,
    }


async def test_a_refused_id_is_a_missing_machine() -> None:
    refused = CloudStackParameterRefused(message="no such id")
    api = StubApi({"listStoragePools": [refused, {"storagepool": [_pool()]}]})
    # The pool is missing by id, and found in the full list.
    assert (await resolve_storage_pool(api, "pool-1", NO_OPTIONS)).name == "primary"
