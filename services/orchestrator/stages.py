"""The state machine as one table: stages, what follows them, what an operator may do there.

`python -m services.orchestrator.stages` prints it as docs/reference/state-machine.md.
`ticker` executes it, `controls` checks requests against it, and the documentation and the web page
are rendered from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "COUNTED_IN_BYTES",
    "STAGE_TABLE",
    "TERMINAL",
    "Control",
    "Stage",
    "StageRow",
    "State",
    "allowed",
    "markdown",
    "row",
]


class Stage(StrEnum):
    """The stages of a migration, in order. Public names: API, CLI, UI, state.json."""

    INIT = "init"
    CONNECTING_VCENTER = "connecting_vcenter"
    FINDING_VM = "finding_vm"
    DISCOVERING_VMWARE_DISKS = "discovering_vmware_disks"
    PREPARING_TARGET_STORAGE = "preparing_target_storage"
    ENABLING_CBT = "enabling_cbt"
    CREATING_BASE_SNAPSHOT = "creating_base_snapshot"
    BASE_COPY = "base_copy"
    DELTA = "delta"
    AWAITING_SHUTDOWN_ACTION = "awaiting_shutdown_action"
    FINAL_SYNC = "final_sync"
    VERIFYING = "verifying"
    CONVERTING = "converting"
    IMPORT_ROOT_DISK = "import_root_disk"
    IMPORT_DATA_DISK = "import_data_disk"
    DONE = "done"


class State(StrEnum):
    """What a migration is doing at its stage. Public names, as those of `Stage`."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ROLLED_BACK = "rolled_back"
    DONE = "done"


# Stages whose progress is counted in bytes.
COUNTED_IN_BYTES = frozenset({Stage.BASE_COPY, Stage.FINAL_SYNC, Stage.VERIFYING})
TERMINAL = frozenset({State.CANCELLED, State.ROLLED_BACK, State.DONE})


class Control(StrEnum):
    """The operators' controls."""

    FINALIZE = "finalize"
    SHUTDOWN = "shutdown"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    RETRY = "retry"
    ROLLBACK = "rollback"


@dataclass(frozen=True)
class StageRow:
    """One stage: what it does, which stages may follow (the usual one first), how it is undone."""

    stage: Stage
    description: str
    next: tuple[Stage, ...]
    on_retry: str
    on_rollback: str
    controls: frozenset[Control]


_BEFORE_CUTOVER = frozenset({Control.FINALIZE, Control.PAUSE, Control.CANCEL})
_CUTOVER = frozenset({Control.CANCEL, Control.ROLLBACK})
_IMPORT = frozenset({Control.ROLLBACK})
_NOTHING = "nothing was changed"
_DROP = "the snapshot is removed, the images are deleted"
_SOURCE_ON = "the images are deleted, the source is started again"

_ROWS = (
    StageRow(
        Stage.INIT,
        "Waits for one of the `parallel_vms` slots.",
        (Stage.CONNECTING_VCENTER,),
        "waits again",
        _NOTHING,
        _BEFORE_CUTOVER,
    ),
    StageRow(
        Stage.CONNECTING_VCENTER,
        "Logs in to vCenter and CloudStack and asks the storage host what it can do.",
        (Stage.FINDING_VM,),
        "logs in again",
        _NOTHING,
        _BEFORE_CUTOVER,
    ),
    StageRow(
        Stage.FINDING_VM,
        "Finds the one machine that the spec names.",
        (Stage.DISCOVERING_VMWARE_DISKS,),
        "looks again",
        _NOTHING,
        _BEFORE_CUTOVER,
    ),
    StageRow(
        Stage.DISCOVERING_VMWARE_DISKS,
        "Reads disks and adapters; checks that the machine can be migrated as the spec requires.",
        (Stage.PREPARING_TARGET_STORAGE,),
        "reads again",
        _NOTHING,
        _BEFORE_CUTOVER,
    ),
    StageRow(
        Stage.PREPARING_TARGET_STORAGE,
        "Makes the storage pools reachable and creates an empty image for each disk.",
        (Stage.ENABLING_CBT,),
        "keeps images that exist and have the right size, creates the others",
        "the images are deleted",
        _BEFORE_CUTOVER,
    ),
    StageRow(
        Stage.ENABLING_CBT,
        "Switches changed block tracking on, for the machine and each disk.",
        (Stage.CREATING_BASE_SNAPSHOT,),
        "switches tracking on where it is off",
        "the images are deleted; tracking stays on, which does no harm",
        _BEFORE_CUTOVER,
    ),
    StageRow(
        Stage.CREATING_BASE_SNAPSHOT,
        "Takes the snapshot that the full copy reads.",
        (Stage.BASE_COPY,),
        "finds the snapshot by its name, or takes it",
        _DROP,
        _BEFORE_CUTOVER,
    ),
    StageRow(
        Stage.BASE_COPY,
        "Copies every disk in full while the machine runs, then removes the snapshot.",
        (Stage.DELTA,),
        "continues at the chunk where it stopped, with a new snapshot if the first is gone",
        _DROP,
        _BEFORE_CUTOVER,
    ),
    StageRow(
        Stage.DELTA,
        "Copies what changed since the pass before, repeatedly, until the cutover is requested.",
        (Stage.FINAL_SYNC, Stage.AWAITING_SHUTDOWN_ACTION, Stage.DELTA),
        "repeats the pass that failed",
        _DROP,
        _BEFORE_CUTOVER,
    ),
    StageRow(
        Stage.AWAITING_SHUTDOWN_ACTION,
        "Waits until the machine is off, or an operator requests `force`.",
        (Stage.FINAL_SYNC,),
        "checks the power state again",
        _DROP,
        _CUTOVER | {Control.SHUTDOWN, Control.PAUSE},
    ),
    StageRow(
        Stage.FINAL_SYNC,
        "Shuts the machine down and copies what changed since the last pass. Downtime begins.",
        (Stage.VERIFYING, Stage.CONVERTING, Stage.IMPORT_ROOT_DISK, Stage.AWAITING_SHUTDOWN_ACTION),
        "repeats the pass that failed",
        _SOURCE_ON,
        _CUTOVER,
    ),
    StageRow(
        Stage.VERIFYING,
        "Reads every image back and compares it with the digests taken while reading the source, "
        "and with the source itself where a delta wrote only a part of a chunk.",
        (Stage.CONVERTING, Stage.IMPORT_ROOT_DISK, Stage.FINAL_SYNC),
        "reads again; chunks that differ are written again from the source and read back",
        _SOURCE_ON,
        _CUTOVER,
    ),
    StageRow(
        Stage.CONVERTING,
        "Runs virt-v2v-in-place on an overlay, which is committed only after success.",
        (Stage.IMPORT_ROOT_DISK,),
        "converts again from the synced image",
        _SOURCE_ON,
        _CUTOVER,
    ),
    StageRow(
        Stage.IMPORT_ROOT_DISK,
        "Imports the root disk as a new machine in CloudStack.",
        (Stage.IMPORT_DATA_DISK,),
        "looks for the machine in CloudStack, imports it only if it is not there",
        "CloudStack unmanages the machine, the images stay, the source is started again",
        _IMPORT,
    ),
    StageRow(
        Stage.IMPORT_DATA_DISK,
        "Imports and attaches data disks, adds adapters, applies settings, starts the machine.",
        (Stage.DONE,),
        "does only the steps that are not done yet",
        "CloudStack unmanages machine and volumes, the images stay, the source is started again",
        _IMPORT,
    ),
    StageRow(
        Stage.DONE,
        "The machine is CloudStack's; the source is off and unchanged.",
        (),
        "nothing to do",
        "CloudStack unmanages machine and volumes, the images stay, the source is started again",
        _IMPORT,
    ),
)

STAGE_TABLE: Mapping[Stage, StageRow] = {r.stage: r for r in _ROWS}


def row(stage: Stage) -> StageRow:
    """A stage's row of the table."""
    return STAGE_TABLE[stage]


def allowed(control: Control, stage: Stage, state: State) -> str:
    """Why `control` is not possible at `stage` and `state`; "" when it is.

    Repeating a control that has already taken effect is possible: controls are idempotent.
    """
    if control is Control.RETRY:
        return (
            ""
            if state in {State.FAILED, State.QUEUED, State.RUNNING, State.WAITING}
            else f"retry continues a failed migration, this one is {state}"
        )
    if control is Control.RESUME:
        return (
            ""
            if state in {State.PAUSED, State.QUEUED, State.RUNNING, State.WAITING}
            else f"resume continues a paused migration, this one is {state}"
        )
    if control is Control.ROLLBACK and state is State.ROLLED_BACK:
        return ""
    if control is Control.CANCEL and state is State.CANCELLED:
        return ""
    if state in TERMINAL and not (control is Control.ROLLBACK and state is State.DONE):
        return f"{control} is no longer possible, the migration is {state}"
    if control not in row(stage).controls:
        stages = ", ".join(r.stage for r in _ROWS if control in r.controls)
        return f"{control} is possible in {stages}; this migration is in {stage}"
    return ""


_PAGE = """\
<!-- Rendered by `make docs` from services/orchestrator/stages.py; edit the table there. -->
# State machine

A migration has a *stage*, the step it has reached, and a *state*, what it is doing there. A failed
migration keeps its stage; `retry` continues it there.

States: {states}.

```mermaid
stateDiagram-v2
{diagram}
```

## Stages

| stage | what happens | next |
|---|---|---|
{stages}

## What an operator may do

`retry` continues a failed migration and `resume` a paused one, at every stage. The other controls
are possible at the stages that name them here; elsewhere they are refused with the reason
CONTROL_NOT_ALLOWED. Every control may be repeated. Cancel and rollback undo the same things.

| stage | controls | retry | cancel or rollback |
|---|---|---|---|
{controls}
"""


def markdown() -> str:
    """The table as a page of the documentation."""
    arrows = [f"    {r.stage} --> {stage}" for r in _ROWS for stage in r.next]
    first, last = _ROWS[0].stage, _ROWS[-1].stage
    following = {r.stage: ", ".join(f"`{stage}`" for stage in r.next) or "the end" for r in _ROWS}
    controls = {r.stage: ", ".join(sorted(r.controls)) for r in _ROWS}
    return _PAGE.format(
        states=", ".join(f"`{state}`" for state in State),
        diagram="\n".join([f"    [*] --> {first}", *arrows, f"    {last} --> [*]"]),
        stages="\n".join(
            f"| `{r.stage}` | {r.description} | {following[r.stage]} |" for r in _ROWS
        ),
        controls="\n".join(
            f"| `{r.stage}` | {controls[r.stage]} | {r.on_retry} | {r.on_rollback} |" for r in _ROWS
        ),
    )


if __name__ == "__main__":
    print(markdown(), end="")
