"""What the API sends and takes; the OpenAPI document is made from these."""

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.problems import SpecProblem

MegabytesPerSecond = float


class Health(BaseModel):
    """Whether the API is ready."""

    status: Literal["ok", "unavailable"]


class SourceDisk(BaseModel):
    """A virtual disk at the source."""

    unit: int = Field(description="The disk's number in a spec, under `disks`.")
    key: int = Field(description="vCenter's device key.")
    label: str
    capacity_bytes: int
    path: str = Field(description="Backing file, such as `[datastore] vm/vm.vmdk`.")


class SourceNic(BaseModel):
    """A network adapter at the source."""

    key: int = Field(description="The adapter's key in a spec, under `nic_mappings`.")
    index: int
    label: str
    network: str
    mac: str


class SourceVm(BaseModel):
    """A virtual machine at the source."""

    name: str
    moref: str
    path: str = Field(description="Inventory path; it differs between machines of the same name.")
    power_state: str = Field(description="`on`, `off` or `suspended`.")
    guest: str
    firmware: str = Field(description="`bios` or `uefi`.")
    cpu_count: int
    memory_bytes: int
    tools_running: bool
    instance_uuid: str
    disks: list[SourceDisk]
    nics: list[SourceNic]


class SourceVms(BaseModel):
    """Virtual machines at the source."""

    count: int
    vms: list[SourceVm]


class PlacementKind(StrEnum):
    """What a machine can be placed on."""

    ZONES = "zones"
    CLUSTERS = "clusters"
    STORAGE = "storage"
    NETWORKS = "networks"
    DISK_OFFERINGS = "diskofferings"
    SERVICE_OFFERINGS = "serviceofferings"
    OS_TYPES = "ostypes"


class Placement(BaseModel):
    """A zone, pool, network or the like at the target, with the id that a spec takes."""

    id: str
    name: str
    zoneid: str | None
    clusterid: str | None
    attributes: dict[str, str] = Field(
        description="Its other properties, under CloudStack's names."
    )


class Placements(BaseModel):
    """What machines can be placed on, sorted by name."""

    kind: PlacementKind
    count: int
    items: list[Placement]


class SubmittedVm(BaseModel):
    """A machine of a spec and its migration."""

    vm_name: str
    vm_moref: str | None
    migration_id: str


class SpecAccepted(BaseModel):
    """The spec is valid and stored; nothing runs before `POST /migration/start`."""

    vms: list[SubmittedVm] = Field(description="In the order of the spec.")
    warnings: list[SpecProblem] = Field(description="What looks wrong but was not refused.")


class StartRequest(BaseModel):
    """What to start."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"vms": ["web-1", "vm-1042"], "parallel_vms": 3}]},
    )

    vms: list[str] = Field(
        default_factory=list,
        description="Names, morefs or migration ids; empty for all that were never started.",
    )
    parallel_vms: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="From now on, how many machines may be in their full copy at a time.",
    )


class MigrationError(BaseModel):
    """Why a migration failed, or the last error while it is retried."""

    reason: str
    message: str
    hint: str
    retryable: bool = Field(description="Whether the migration repeats it automatically.")
    metadata: dict[str, str]
    time: datetime | None


class MigrationSummary(BaseModel):
    """A migration in short."""

    migration_id: str
    vm_name: str
    vm_moref: str | None = Field(description="Null until the machine is found.")
    stage: str = Field(description="Where in its course it is; a failed migration keeps its stage.")
    next_stage: str | None = Field(description="The stage that follows when all goes well.")
    status: str = Field(
        description="`queued`, `running`, `waiting`, `paused`, `failed`, `cancelled`, "
        "`rolled_back` or `done`."
    )
    activity: str = Field(description="What it is doing, for a person.")
    finalize_requested: bool
    finalize_now_requested: bool
    overall_progress: float = Field(ge=0, le=100, description="Percent of the whole migration.")
    transfer_speed_mbps: MegabytesPerSecond = Field(
        description="MB/s (10^6 bytes a second) of all running transfers."
    )
    disk_progress: dict[str, float] = Field(
        description="Percent of the current pass, by the disk's unit."
    )
    delta_passes: int = Field(description="Number of delta passes done.")
    error: MigrationError | None
    target_vm_id: str | None = Field(description="CloudStack's id, from the import on.")
    create_time: datetime | None
    end_time: datetime | None


class Disk(BaseModel):
    """One disk of a migration."""

    unit: int
    key: int
    label: str
    is_root: bool
    capacity_bytes: int
    target_path: str | None = Field(description="The QCOW2 on the storage host.")
    percent: float
    done_bytes: int
    total_bytes: int
    speed_mbps: MegabytesPerSecond
    eta_seconds: int | None
    volume_id: str | None
    digest: str | None = Field(description="Over all chunk digests, after the last pass.")


class Pass(BaseModel):
    """One pass over a machine's disks."""

    number: int
    kind: str = Field(description="`base`, `delta` or `final`.")
    start_time: datetime | None
    end_time: datetime | None
    read_bytes: int
    written_bytes: int
    changed_bytes: int


class StageTime(BaseModel):
    """When a stage was entered and left."""

    stage: str
    start_time: datetime | None
    end_time: datetime | None


class Downtime(BaseModel):
    """From the request to shut the source down until the target runs or is ready to be started."""

    start_time: datetime | None
    end_time: datetime | None
    total_seconds: float
    part_seconds: dict[str, float]


class Debt(BaseModel):
    """Something made for a migration, still to be removed or handed over to CloudStack."""

    kind: str = Field(description="`snapshot`, `image` or `mount`.")
    name: str = Field(
        description="The snapshot's name, the image's path on the storage host, or the pool's id."
    )
    create_time: datetime | None = Field(description="Its age counts from here.")
    attempts: int = Field(description="How often removing it has failed; it is repeated.")
    last_error: str | None = Field(description="Why the last attempt failed.")


class MigrationStatus(MigrationSummary):
    """Everything about a migration."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "migration_id": "0b2c6f52",
                    "vm_name": "web-1",
                    "vm_moref": "vm-1042",
                    "stage": "base_copy",
                    "next_stage": "delta",
                    "status": "running",
                    "activity": "copying 2 disks",
                    "finalize_requested": False,
                    "finalize_now_requested": False,
                    "overall_progress": 41.5,
                    "transfer_speed_mbps": 312.4,
                    "disk_progress": {"0": 55.0, "1": 28.1},
                    "delta_passes": 0,
                    "error": None,
                    "target_vm_id": None,
                    "create_time": "2026-03-01T10:00:00Z",
                    "end_time": None,
                    "revision": 118,
                    "disks": [],
                    "passes": [],
                    "stage_times": [],
                    "downtime": None,
                    "wake_time": None,
                    "runtime_dir": "/var/lib/vm-migrator/web-1_vm-1042",
                    "open_debts": 1,
                    "debts": [
                        {
                            "kind": "snapshot",
                            "name": "v2c-0b2c6f52a1d4-p0",
                            "create_time": "2026-03-01T10:00:12Z",
                            "attempts": 0,
                            "last_error": None,
                        }
                    ],
                }
            ]
        }
    )

    revision: int = Field(description="Grows with each change.")
    disks: list[Disk]
    passes: list[Pass] = Field(description="Oldest first; at most the last hundred.")
    stage_times: list[StageTime]
    downtime: Downtime | None = Field(description="Null before the cutover.")
    wake_time: datetime | None = Field(
        description="When a waiting migration continues automatically."
    )
    runtime_dir: str | None = Field(
        description="Folder of state.json and marker files, on the orchestrator's host."
    )
    open_debts: int = Field(description="Number of `debts`.")
    debts: list[Debt] = Field(
        description="What is still to be removed or handed over to CloudStack, oldest first."
    )


class Jobs(BaseModel):
    """Migrations, oldest first."""

    count: int
    jobs: list[MigrationSummary]


class Started(BaseModel):
    """What was put into the queue."""

    count: int
    started: list[MigrationSummary]


class LogEntry(BaseModel):
    """One entry of a migration's audit trail."""

    sequence: int = Field(description="Grows; pass the last one as `after` to get the next ones.")
    time: datetime | None
    action: str = Field(description="Such as `stage.entered` or `operator.finalize`.")
    message: str
    actor: str
    details: dict[str, str]


class Logs(BaseModel):
    """A migration's audit trail, oldest first."""

    migration_id: str
    vm_name: str
    entries: list[LogEntry]


class ShutdownAction(StrEnum):
    """What to do about a machine that v2c could not shut down."""

    FORCE = "force"
    MANUAL = "manual"
