"""What a new lab's CloudStack contains: one zone, one cluster, pools, networks, offerings.

Ids are fixed, so that configuration and spec files can name them.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Final

from lab.cloudstack.store import Row, Tables

_NAMESPACE: Final = uuid.UUID("5f0a2c1e-7b1d-4c53-9f43-6e1d7d0c5a10")
GIB: Final = 1 << 30
_CREATED: Final = "2026-01-01T00:00:00+0000"


def _id(name: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, name))


def default_ids() -> dict[str, str]:
    """The ids of everything in a new lab, by role.

    Names without a suffix (``zoneid``, ``storageid``, ``networkid`` …) are for use in
    specs; the others are entities that CloudStack refuses in some way, for tests.
    """
    roles = (
        "zoneid podid clusterid hostid domainid domainid2 accountid accountid2"
        " storageid storageid2 storageid_nfs storageid_local storageid_rbd"
        " networkid networkid2 networkid3"
        " serviceofferingid serviceofferingid_small serviceofferingid_constrained"
        " serviceofferingid_open"
        " diskofferingid diskofferingid_fixed diskofferingid_local diskofferingid_tagged"
        " ostypeid ostypeid_debian ostypeid_windows ostypeid_ubuntu"
    )
    return {role: _id(role) for role in roles.split()}


def pool_paths(directory: Path) -> dict[str, Path]:
    """The directory with each pool's image files, by pool id.

    Shared mount points are the directories that v2c opens. Other pools use a
    directory beside them, whatever source the API reports for them.
    """
    ids = default_ids()
    return {
        ids["storageid"]: directory / "pool",
        ids["storageid2"]: directory / "pool2",
        ids["storageid_nfs"]: directory / "pool-nfs",
        ids["storageid_local"]: directory / "pool-local",
    }


def initial_tables(directory: Path) -> Tables:
    """The tables of a new lab whose images are under ``directory``."""
    ids = default_ids()
    place = {"zoneid": ids["zoneid"], "zonename": "lab-zone"}
    tables: dict[str, list[Row]] = {
        "setting": [
            {"id": "version", "value": "4.22.1.0"},
            # The real minimum is 1 GiB; the lab's disks are smaller.
            {"id": "custom.diskoffering.size.min", "value": "0"},
            {"id": "custom.diskoffering.size.max", "value": "1024"},
            {"id": "denied.commands", "value": ""},
        ],
        "zone": [
            {
                "id": ids["zoneid"],
                "name": "lab-zone",
                "dns1": "192.0.2.53",
                "internaldns1": "192.0.2.53",
                "networktype": "Advanced",
                "securitygroupsenabled": False,
                "localstorageenabled": True,
                "allocationstate": "Enabled",
                "type": "Core",
            }
        ],
        "cluster": [
            {
                "id": ids["clusterid"],
                "name": "lab-cluster",
                "podid": ids["podid"],
                "podname": "lab-pod",
                **place,
                "hypervisortype": "KVM",
                "clustertype": "CloudManaged",
                "allocationstate": "Enabled",
                "managedstate": "Managed",
                "arch": "x86_64",
            }
        ],
        "host": [_host(ids, place)],
        "storagepool": _pools(ids, place, directory),
        "network": _networks(ids, place),
        "serviceoffering": _service_offerings(ids),
        "diskoffering": _disk_offerings(ids),
        "ostype": _os_types(ids),
        "domain": [
            {"id": ids["domainid"], "name": "ROOT", "level": 0, "haschild": True, "path": "ROOT"},
            {
                "id": ids["domainid2"],
                "name": "Customers",
                "level": 1,
                "haschild": False,
                "parentdomainid": ids["domainid"],
                "parentdomainname": "ROOT",
                "path": "ROOT/Customers",
            },
        ],
        "account": [
            _account(ids["accountid"], "admin", 1, ids["domainid"], "ROOT"),
            _account(ids["accountid2"], "customer", 0, ids["domainid2"], "ROOT/Customers"),
        ],
    }
    return {name: {row["id"]: row for row in rows} for name, rows in tables.items()}


def _account(account_id: str, name: str, kind: int, domain_id: str, path: str) -> Row:
    return {
        "id": account_id,
        "name": name,
        "accounttype": kind,
        "roletype": "Admin" if kind else "User",
        "domainid": domain_id,
        "domain": path.rpartition("/")[2],
        "domainpath": path,
        "state": "enabled",
    }


def _host(ids: dict[str, str], place: Row) -> Row:
    return {
        "id": ids["hostid"],
        "name": "lab-kvm-1",
        "state": "Up",
        "type": "Routing",
        "ipaddress": "127.0.0.1",
        **place,
        "podid": ids["podid"],
        "podname": "lab-pod",
        "clusterid": ids["clusterid"],
        "clustername": "lab-cluster",
        "hypervisor": "KVM",
        "cpunumber": 16,
        "cpuspeed": 2600,
        "memorytotal": 64 * GIB,
        "resourcestate": "Enabled",
        "arch": "x86_64",
        "ueficapability": True,
        "created": _CREATED,
    }


def _pools(ids: dict[str, str], place: Row, directory: Path) -> list[Row]:
    paths = pool_paths(directory)

    def pool(role: str, name: str, kind: str, scope: str, **more: object) -> Row:
        cluster = {"clusterid": ids["clusterid"], "clustername": "lab-cluster"}
        return {
            "id": ids[role],
            "name": name,
            "type": kind,
            "scope": scope,
            **place,
            "podid": ids["podid"],
            "podname": "lab-pod",
            **({} if scope == "ZONE" else cluster),
            "state": "Up",
            "provider": "DefaultPrimary",
            "created": _CREATED,
            **more,
        }

    nfs = "/export/primary"
    return [
        pool(
            "storageid",
            "lab-primary",
            "SharedMountPoint",
            "CLUSTER",
            ipaddress="localhost",
            path=str(paths[ids["storageid"]]),
        ),
        pool(
            "storageid2",
            "lab-primary-2",
            "SharedMountPoint",
            "CLUSTER",
            ipaddress="localhost",
            path=str(paths[ids["storageid2"]]),
        ),
        pool(
            "storageid_nfs",
            "lab-nfs",
            "NetworkFilesystem",
            "ZONE",
            ipaddress="127.0.0.1",
            path=nfs,
        ),
        pool(
            "storageid_local",
            "lab-local",
            "Filesystem",
            "HOST",
            ipaddress="127.0.0.1",
            path=str(paths[ids["storageid_local"]]),
            hostid=ids["hostid"],
        ),
        pool("storageid_rbd", "lab-ceph", "RBD", "ZONE", ipaddress="127.0.0.1", path="cloudstack"),
    ]


def _networks(ids: dict[str, str], place: Row) -> list[Row]:
    def network(role: str, name: str, kind: str, **more: object) -> Row:
        return {
            "id": ids[role],
            "name": name,
            "displaytext": name,
            "traffictype": "Guest",
            "type": kind,
            **place,
            "state": "Implemented" if kind == "Isolated" else "Setup",
            "issystem": False,
            "account": "admin",
            "domainid": ids["domainid"],
            "domain": "ROOT",
            "canusefordeploy": True,
            "created": _CREATED,
            **more,
        }

    return [
        network(
            "networkid",
            "lab-app",
            "Isolated",
            cidr="10.1.1.0/24",
            gateway="10.1.1.1",
            netmask="255.255.255.0",
            vlan="101",
            first_ip="10.1.1.2",
            last_ip="10.1.1.254",
        ),
        network(
            "networkid2",
            "lab-shared",
            "Shared",
            cidr="172.16.7.0/24",
            gateway="172.16.7.1",
            netmask="255.255.255.0",
            vlan="107",
            acltype="Domain",
            first_ip="172.16.7.10",
            last_ip="172.16.7.250",
        ),
        network("networkid3", "lab-l2", "L2", vlan="113"),
    ]


def _service_offerings(ids: dict[str, str]) -> list[Row]:
    def offering(role: str, name: str, **more: object) -> Row:
        return {
            "id": ids[role],
            "name": name,
            "displaytext": name,
            "state": "Active",
            "storagetype": "shared",
            "provisioningtype": "thin",
            "offerha": False,
            "issystem": False,
            "created": _CREATED,
            **more,
        }

    return [
        # CPUs and memory are free, the speed is fixed: suits any source VM.
        offering("serviceofferingid", "lab-custom", iscustomized=True, cpuspeed=1000),
        offering(
            "serviceofferingid_small",
            "lab-small",
            iscustomized=False,
            cpunumber=1,
            cpuspeed=1000,
            memory=1024,
        ),
        offering(
            "serviceofferingid_constrained",
            "lab-constrained",
            iscustomized=True,
            cpuspeed=1000,
            serviceofferingdetails={
                "mincpunumber": "2",
                "maxcpunumber": "4",
                "minmemory": "1024",
                "maxmemory": "8192",
            },
        ),
        offering("serviceofferingid_open", "lab-open", iscustomized=True),
    ]


def _disk_offerings(ids: dict[str, str]) -> list[Row]:
    def offering(role: str, name: str, **more: object) -> Row:
        return {
            "id": ids[role],
            "name": name,
            "displaytext": name,
            "state": "Active",
            "storagetype": "shared",
            "provisioningtype": "thin",
            "iscustomized": True,
            "disksize": 0,
            "displayoffering": True,
            "encrypt": False,
            "created": _CREATED,
            **more,
        }

    return [
        offering("diskofferingid", "lab-disk-custom"),
        offering("diskofferingid_fixed", "lab-disk-20g", iscustomized=False, disksize=20),
        offering("diskofferingid_local", "lab-disk-local", storagetype="local"),
        offering("diskofferingid_tagged", "lab-disk-ssd", tags="ssd"),
    ]


def _os_types(ids: dict[str, str]) -> list[Row]:
    names = {
        "ostypeid": "Other Linux (64-bit)",
        "ostypeid_debian": "Debian GNU/Linux 12 (64-bit)",
        "ostypeid_ubuntu": "Ubuntu 24.04 LTS",
        "ostypeid_windows": "Windows Server 2022 (64-bit)",
    }
    return [
        {
            "id": ids[role],
            "name": name,
            "description": name,
            "oscategoryid": _id("oscategory " + name.split()[0]),
            "oscategoryname": name.split()[0],
            "isuserdefined": False,
            "fordisplay": True,
        }
        for role, name in names.items()
    ]
