"""The model of config.yaml. Every default has its reason beside it.

The first five sections and their keys are the reference tool's, so that its users can bring
their file. Sizes, times and rates carry their unit in the name or the comment.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from services.config.fields import (
    AbsolutePath,
    Boolean,
    BootMode,
    BootType,
    CloudStackEndpoint,
    NicAdapter,
    Quiesce,
    ResourceId,
    RootDiskController,
    Section,
    ShutdownMode,
    Thumbprint,
    ZeroIsUnset,
    fault,
)
from services.config.limits_model import Limits
from services.config.problems import Problem
from services.config.secret import Secret, SecretUrl, secret_field

__all__ = [
    "Agents",
    "CloudStack",
    "CloudStackDefaults",
    "Config",
    "Database",
    "Disk",
    "Gateway",
    "Limits",
    "Logging",
    "Metrics",
    "Migration",
    "Storage",
    "Tls",
    "VCenter",
    "Virt",
]

# sockaddr_un.sun_path on Linux is 108 bytes with its final NUL (unix(7)).
_UNIX_PATH_LIMIT = 107
_CONTROL_DIR = "{control_dir}"


class VCenter(Section):
    """Where the source VMs are. `thumbprint` or `ca_file` names the certificate to trust."""

    host: str
    user: str
    # VC_PASSWORD is the reference tool's variable: an empty password means it.
    password: Annotated[Secret, secret_field("vcenter.password")] = Secret(
        "env:VC_PASSWORD", "vcenter.password"
    )
    # vCenter's SOAP API listens on 443 unless an administrator moved it.
    port: int = Field(default=443, ge=1, le=65535)
    # None: the certificate is verified with ca_file, or with the system's CAs.
    thumbprint: Thumbprint | None = None
    ca_file: AbsolutePath | None = None
    # Off: whoever can answer instead of vCenter gets its administrator's password.
    insecure: Boolean = False

    @model_validator(mode="before")
    @classmethod
    def _split_host(cls, data: Any) -> Any:
        """Accept ``https://vc/sdk`` and ``vc:8443`` for host, as people paste them."""
        if not isinstance(data, dict) or not isinstance(data.get("host"), str):
            return data
        host = re.sub(r"^https?://", "", data["host"].strip(), flags=re.IGNORECASE)
        host = host.split("/", 1)[0]
        match = re.fullmatch(r"(\[[^\]]+\]|[^:]+):(\d+)", host)
        if match is None:
            return {**data, "host": host.strip("[]")}
        port = data.get("port", match[2])
        return {**data, "host": match[1].strip("[]"), "port": port}

    @model_validator(mode="after")
    def _one_kind_of_trust(self) -> Self:
        if self.insecure and (self.thumbprint or self.ca_file):
            raise fault(
                "true would ignore the thumbprint or ca_file given beside it",
                "Remove insecure to have the certificate checked.",
                at=("insecure",),
            )
        return self


class Migration(Section):
    """How VMs are migrated unless their spec says otherwise, and where this host keeps files."""

    # The unpacked VDDK: the folder that holds lib64/libvixDiskLib.so.*.
    vddk_path: AbsolutePath
    # auto: quiesce where VMware Tools can, otherwise take the snapshot without.
    snapshot_quiesce: Quiesce = "auto"
    # auto: ask the guest to shut down, and ask the operator where there are no Tools.
    shutdown_mode: ShutdownMode = "auto"
    # None: 30 s for Windows, 15 s for others, what they need to flush after power-off.
    finalize_settle_seconds: Annotated[int | None, ZeroIsUnset, Field(ge=0, le=3600)] = None
    # Four disks at a time keep one ESXi host below its NFC connection limit with three VMs.
    parallel_disks: Annotated[int, ZeroIsUnset, Field(ge=1, le=64)] = 4
    parallel_vms: Annotated[int, ZeroIsUnset, Field(ge=1, le=256)] = 3
    # The reference tool's folder, where people look for the state of migrations.
    control_dir: AbsolutePath = Path("/var/lib/vm-migrator")
    # Long enough to look into a migration that went wrong; a large disk's chunk map takes 20 MB.
    retention_days: int = Field(default=30, ge=1, le=3650)
    # The reference tool's folder. A spec that is not in the current folder is looked for here.
    specs_dir: AbsolutePath = Field(default_factory=lambda data: _below(data, "specs"))
    # Temporary files of conversions; needs some hundred MB per conversion.
    workdir: AbsolutePath = Field(default_factory=lambda data: _below(data, "work"))


class CloudStack(Section):
    """The target's API. Importing VMs needs the keys of a root admin."""

    endpoint: CloudStackEndpoint
    api_key: Annotated[Secret, secret_field("cloudstack.api_key")]
    secret_key: Annotated[Secret, secret_field("cloudstack.secret_key")]
    # Slow management servers take over 30 s to list networks and OS types.
    timeout_seconds: Annotated[int, ZeroIsUnset, Field(ge=1, le=3600)] = 60


class CloudStackDefaults(Section):
    """Placement for VMs whose spec does not give it. Nothing is guessed: the default is none."""

    zoneid: ResourceId | None = None
    clusterid: ResourceId | None = None
    storageid: ResourceId | None = None
    networkid: ResourceId | None = None
    serviceofferingid: ResourceId | None = None
    diskofferingid: ResourceId | None = None
    ostypeid: ResourceId | None = None
    # None: as the source VM boots.
    boottype: BootType | None = None
    bootmode: BootMode | None = None
    rootdiskcontroller: RootDiskController | None = None
    nicadapter: NicAdapter | None = None


class Virt(Section):
    """Conversion of guests to KVM drivers."""

    # Off as in the reference tool: a guest that has its drivers is left as it is.
    run_virt_v2v: Boolean = False
    # Where the virtio-win package of every distribution puts it.
    virtio_iso: AbsolutePath = Path("/usr/share/virtio-win/virtio-win.iso")


class Tls(Section):
    """One key pair for all services of this host; all three files or none."""

    ca: AbsolutePath
    certificate: AbsolutePath
    key: AbsolutePath


class Database(Section):
    """The orchestrator's database, an SQLAlchemy URL. It may hold a password."""

    # SQLite needs no server and is enough for one orchestrator.
    url: Annotated[SecretUrl, secret_field("database.url", SecretUrl)] = SecretUrl(
        "sqlite:///{control_dir}/v2c.sqlite3", "database.url"
    )


class Agents(Section):
    """gRPC addresses: ``unix:PATH`` or ``host:port``. ``{control_dir}`` is replaced.

    Unix sockets by default: only this host's users reach them, so that no certificate is needed.
    """

    vmware: str = "unix:{control_dir}/run/vmware.sock"
    disk: str = "unix:{control_dir}/run/disk.sock"
    cloudstack: str = "unix:{control_dir}/run/cloudstack.sock"
    orchestrator: str = "unix:{control_dir}/run/orchestrator.sock"


class Gateway(Section):
    """The REST API."""

    # The reference tool's port, on all interfaces: browsers are on other machines.
    listen: str = ":8000"


class Storage(Section):
    """The storage pools on the disk agent's host."""

    # Off: a mount that stays does no harm, and the next machine finds it. On a KVM host, where
    # CloudStack uses the same path, the disk agent keeps it in any case.
    unmount_when_done: Boolean = False


class Disk(Section):
    """The data path of one transfer; the numbers are measured optima."""

    # 16 requests of 1 MiB hide 2 ms of latency (0.66 of the time of synchronous reads' 2.9).
    # A source that answers at once gets fewer (docs/adr/0005).
    queue_depth: int = Field(default=16, ge=1, le=64)
    chunk_mb: int = Field(default=1, ge=1, le=32)
    # 59 GB/s a core: next to free, but not cryptographic. BLAKE3 is, at 6 GB/s; SHA-256 would cost
    # more than the copy. A disk of which a copy has begun keeps its own.
    digest: Literal["xxh3_128", "blake3"] = "xxh3_128"
    # Reads the target back against the digests: the only proof that its storage kept the data.
    verify_target: Boolean = True
    # A crash repeats at most this much; each checkpoint costs a flush of the target.
    checkpoint_seconds: float = Field(default=5, gt=0, le=3600)
    checkpoint_mb: int = Field(default=512, ge=1, le=65536)
    # none (O_DIRECT) is 30 to 40 % faster; auto takes it where the file system can.
    cache: Literal["auto", "none", "writeback"] = "auto"


class Logging(Section):
    """Structured logs on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    # auto: for people on a terminal, JSON lines otherwise.
    format: Literal["auto", "console", "json"] = "auto"


class Metrics(Section):
    """Where each service of this host serves Prometheus' ``GET /metrics``, as ``host:port``.

    None: not at all. Whoever reaches the port sees names and numbers of calls, so give loopback
    or an address that only the monitoring reaches.
    """

    vmware: str | None = None
    disk: str | None = None
    cloudstack: str | None = None
    orchestrator: str | None = None


class Config(Section):
    """The whole of config.yaml."""

    vcenter: VCenter
    migration: Migration
    cloudstack: CloudStack
    cloudstack_defaults: CloudStackDefaults = CloudStackDefaults()
    virt: Virt = Virt()
    tls: Tls | None = None
    database: Database = Database()
    agents: Agents = Agents()
    gateway: Gateway = Gateway()
    storage: Storage = Storage()
    disk: Disk = Disk()
    limits: Limits = Limits()
    logging: Logging = Logging()
    metrics: Metrics = Metrics()

    # Where it was read from; None for a config built from text.
    _path: Path | None = PrivateAttr(default=None)
    _warnings: tuple[Problem, ...] = PrivateAttr(default=())

    @property
    def path(self) -> Path | None:
        """The file this config was loaded from."""
        return self._path

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What looks wrong but is not refused, such as an id that is no UUID."""
        return self._warnings

    @model_validator(mode="before")
    @classmethod
    def _drop_empty_tls(cls, data: Any) -> Any:
        """``tls:`` with nothing given below is the same as no tls."""
        tls = data.get("tls") if isinstance(data, dict) else None
        if isinstance(tls, dict) and not any(tls.values()):
            return {key: value for key, value in data.items() if key != "tls"}
        return data

    @model_validator(mode="after")
    def _expand_control_dir(self) -> Self:
        control_dir = str(self.migration.control_dir)
        addresses = {
            name: address.replace(_CONTROL_DIR, control_dir) for name, address in self.agents
        }
        for name, address in addresses.items():
            addresses[name] = _checked_address(name, address, secured=bool(self.tls))
        url = self.database.url.expanded(_CONTROL_DIR, control_dir)
        # A frozen model: set what was checked in place of the templates.
        object.__setattr__(self, "agents", Agents.model_construct(**addresses))
        object.__setattr__(self, "database", Database.model_construct(url=url))
        return self


def _below(data: dict[str, Any], name: str) -> Path:
    control_dir: Path = data.get("control_dir", Path("/var/lib/vm-migrator"))
    return control_dir / name


def _checked_address(name: str, address: str, *, secured: bool) -> str:
    """Raises for an address that nothing can listen on, or that would be unprotected."""
    at = ("agents", name)
    if address.startswith("unix:"):
        path = address.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/"):
            raise fault(f"{address!r} needs an absolute path", "Write unix:/path.", at=at)
        if len(path.encode()) > _UNIX_PATH_LIMIT:
            raise fault(
                f"the socket's path {path} has {len(path.encode())} bytes, Linux allows "
                f"{_UNIX_PATH_LIMIT}",
                f"Give agents.{name} or migration.control_dir a shorter path.",
                at=at,
            )
        return f"unix:{path}"
    match = re.fullmatch(r"(\[[^\]]+\]|[^:\s/]*):(\d{1,5})", address)
    if match is None or not 0 < int(match[2]) < 65536:
        raise fault(f"{address!r} is not an address", "Write unix:/path or host:port.", at=at)
    if not secured and match[1] not in {"localhost", "127.0.0.1", "[::1]"}:
        raise fault(
            f"{address!r} is reached over a network without tls",
            "Fill the section tls on all hosts; v2c pki init creates its files.",
            at=at,
        )
    return address
