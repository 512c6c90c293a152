"""``v2c base-copy`` and ``v2c delta-sync``: the disk agent's engine on one disk, by hand."""

import asyncio
import json as json_module
import os
import re
import uuid
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
import xxhash

from cli.errors import EXIT_INTERRUPTED, CommandError, UsageMistakeError
from cli.expert.scratch import scratch_folder
from cli.expert.shown import Shown, say, shown
from cli.expert.spec import BaseCopySpec, DeltaSyncSpec, ExpertSpec, load_expert_spec, ranges_from
from cli.interrupts import Interrupted, interruptible
from cli.options import JsonOption
from services.disk_agent.chunk_map.chunk_map import ChunkMap
from services.disk_agent.engine.ranges import Range
from services.disk_agent.host.commands import HostCommands
from services.disk_agent.storage.images import Images
from services.disk_agent.transfer_failures import (
    HostFailed,
    MapUnusable,
    TransferFailure,
)
from services.disk_agent.transfers.supervisor import ProcessLauncher, kill_processes_below
from services.disk_agent.worker.modes import Mode
from services.disk_agent.worker.order import TransferOrder, VddkSpec
from services.disk_agent.worker.range_sets import RangeSets
from services.kit.failure import Failure, ReportedError

__all__ = ["base_copy", "delta_sync", "require_expert_commands"]

_MEBIBYTE = 1 << 20
_CHECKPOINT_SECONDS = 5.0
_CHECKPOINT_BYTES = 512 * _MEBIBYTE
_ENABLED = "V2C_ENABLE_EXPERT_COMMANDS"
_RANGES_ID = "delta-sync"
_MAP_SECONDS = 600.0
_ANEW = "Delete the image and its map (the hidden file beside it), then run base-copy."
# The engine's hints are for migrations; these are for who copies by hand.
_HINTS = {
    "CHUNK_MAP_UNUSABLE": _ANEW,
    "DISK_SHRANK": _ANEW,
    "RANGES_REFUSED": "Correct ranges_file; nothing was written.",
    "TARGET_CORRUPT": _ANEW,
    "TARGET_SIZE_MISMATCH": "Correct disk_size_bytes, or delete the image and run base-copy.",
    "SOURCE_SIZE_MISMATCH": "Correct disk_size_bytes: it is the disk's capacity in vCenter.",
    "TARGET_REPLACED": f"Put the image back, or: {_ANEW[0].lower()}{_ANEW[1:]}",
}
# Where a migration's hints name the config's keys, these are the spec's.
_KEYS = {
    "vcenter.user and the password": "vddk.user and vddk.password",
    "vcenter.thumbprint": "vddk.thumbprint",
    "migration.vddk_path": "vddk.libdir",
    "disk.chunk_mb": "min_chunk_mb, or chunk_mb for delta-sync,",
}
# Snapshots give a disk's file other names: a.vmdk, a-000001.vmdk, …
_SNAPSHOT_NUMBER = re.compile(r"-[0-9]{6}(?=\.vmdk$)")

SpecFile = Annotated[Path, typer.Option("--spec", help="Expert spec: vddk and the disk.")]


def require_expert_commands(command: str) -> None:
    """Raises UsageMistakeError unless they were asked for: they bypass a migration's checks."""
    if os.environ.get(_ENABLED) != "1":
        raise UsageMistakeError(
            f"{command} copies a disk by hand, without the checks of a migration",
            f"Set {_ENABLED}=1 in the environment if that is wanted.",
        )


def base_copy(spec: SpecFile, json: JsonOption = False) -> None:
    """Copy a snapshot's disk into a QCOW2 file; repeated, it resumes.

    The spec has vddk{libdir, server, user, password, thumbprint, vm_moref} and
    base_copy{snapshot_moref, disk_path, target_qcow2, disk_size_bytes, …}. At most as many
    requests are in flight as the larger of readers and queue_depth (16). A chunk has 1 MiB, or
    the smallest power of two that is at least min_chunk_mb and at most max_chunk_mb. An example
    is in docs/howto/copy-one-disk.md.
    """
    loaded = load_expert_spec(spec)
    job = loaded.base_copy
    if job is None:
        raise CommandError("base_copy: the spec has no such section", "Add it; see --help.")
    target = job.target_qcow2
    with _host_errors_reported():
        made = _image_for(job)
    depth = job.requests_in_flight
    order = _order(loaded, job, Mode.FULL, queue_depth=depth, chunk_mb=job.chunk_mb)
    try:
        _run(_transfer(order, loaded, ranges=None, shown=shown(json)))
    except CommandError:
        if made is not None:
            _remove_unused(target, made)
        raise


def delta_sync(spec: SpecFile, json: JsonOption = False) -> None:
    """Copy changed ranges of a snapshot's disk into the QCOW2 file of an earlier base-copy.

    The spec has vddk{…} as for base-copy and
    delta_sync{snapshot_moref, disk_path, target_qcow2, disk_size_bytes, ranges_file, chunk_mb}.
    """
    loaded = load_expert_spec(spec)
    job = loaded.delta_sync
    if job is None:
        raise CommandError("delta_sync: the spec has no such section", "Add it; see --help.")
    with _host_errors_reported():
        exists = job.target_qcow2.is_file()
    if not exists:
        raise CommandError(
            f"delta_sync.target_qcow2: there is no {job.target_qcow2}", "Run base-copy first."
        )
    try:
        text = job.ranges_file.read_text(encoding="utf-8")
        document = json_module.loads(text, object_pairs_hook=_object)
    except OSError as exc:
        raise CommandError(
            f"delta_sync.ranges_file: {job.ranges_file} cannot be read: {exc.strerror}"
        ) from exc
    except (ValueError, RecursionError) as exc:
        raise CommandError(f"delta_sync.ranges_file: {job.ranges_file} is not JSON: {exc}") from exc
    ranges = [Range(*pair) for pair in ranges_from(document, job.ranges_file)]
    order = _order(loaded, job, Mode.RANGES, queue_depth=16, chunk_mb=job.chunk_mb)
    # Only the same ranges resume where they were: with others it is another pass.
    order = replace(order, pass_number=_number_of(ranges))
    _run(_transfer(order, loaded, ranges=ranges, shown=shown(json)))


class _OneFolder:
    """The image's folder is the pool; a copy by hand has no list of pools to check it against."""

    def root_of(self, image: Path) -> Path:
        return image.parent


def _order(
    spec: ExpertSpec,
    job: BaseCopySpec | DeltaSyncSpec,
    mode: Mode,
    *,
    queue_depth: int,
    chunk_mb: int,
) -> TransferOrder:
    vddk = spec.vddk
    full = mode is Mode.FULL
    return TransferOrder(
        transfer_id=f"expert-{uuid.uuid4()}",
        mode=mode,
        source=VddkSpec(
            server=vddk.server,
            user=vddk.user,
            thumbprint=vddk.thumbprint,
            library_dir=str(vddk.libdir),
            vm_moref=vddk.vm_moref,
            snapshot_moref=job.snapshot_moref,
            disk_path=job.disk_path,
            port=vddk.port,
        ),
        target_path=str(job.target_qcow2),
        capacity_bytes=job.disk_size_bytes,
        disk_id=f"{vddk.vm_moref}:{_SNAPSHOT_NUMBER.sub('', job.disk_path)}",
        snapshot_id=job.snapshot_moref,
        pass_number=0 if full else 1,
        ranges_id="" if full else _RANGES_ID,
        queue_depth=queue_depth,
        chunk_bytes=chunk_mb * _MEBIBYTE,
    )


def _run(transfer: Coroutine[None, None, None]) -> None:
    """Run to the end, or to SIGINT or SIGTERM: neither leaves a folder or a process behind."""
    try:
        with _host_errors_reported():
            asyncio.run(interruptible(transfer, _say_stopping))
    except (TransferFailure, ReportedError) as exc:
        hint = _HINTS.get(exc.reason, exc.hint)
        for key, ours in _KEYS.items():
            hint = hint.replace(key, ours)
        raise CommandError(exc.message, hint) from exc
    except Interrupted:
        say("interrupted; the same command resumes where it stopped", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None


@contextmanager
def _host_errors_reported() -> Iterator[None]:
    """What this host refuses is no defect: raises CommandError with the file and the reason."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise CommandError(HostFailed.of(exc).message, HostFailed.hint) from exc


def _image_for(job: BaseCopySpec) -> os.stat_result | None:
    """See to it that there is an image for a copy; returns its file if it was made just now.

    Raises CommandError when what is there is not for us to write to.
    """
    target = job.target_qcow2
    field = "base_copy.target_qcow2"
    if not target.parent.is_dir():
        raise CommandError(
            f"{field}: there is no folder {target.parent}",
            "Make it, or mount the storage that it is on.",
        )
    if target.is_symlink() and not target.exists():
        raise CommandError(f"{field}: {target} points to nothing", "Remove the link.")
    if target.exists() and not target.is_file():
        raise CommandError(f"{field}: {target} is no file", "Give the name of an image.")
    image, existed = _images(target).create(target.parent, target.name, job.disk_size_bytes)
    if image.locked:
        raise CommandError(
            f"{field}: {target} is in use by another process",
            "Wait for the other command, or find who has it open: fuser -v.",
        )
    if existed:
        _check_ours(target)
        return None
    return target.stat()


def _remove_unused(target: Path, made: os.stat_result) -> None:
    """Remove an image that nothing was copied to, and nobody else has begun to use.

    One of a wrong size would only be in the next try's way.
    """
    if _map_of(target).exists() or not target.exists():
        return
    if os.path.samestat(target.stat(), made) and not _images(target).inspect(target).locked:
        target.unlink(missing_ok=True)


def _images(target: Path) -> Images:
    return Images(HostCommands(), _OneFolder(), target.parent)


def _map_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.map")


def _say_stopping() -> None:
    say("stopping after a last checkpoint", err=True)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ValueError for a key that comes twice, of which JSON takes the last."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError(f"a key comes twice in {pairs}")
    return made


def _number_of(ranges: list[Range]) -> int:
    return 1 + xxhash.xxh3_64_intdigest(repr(sorted(ranges)).encode())


def _check_ours(target: Path) -> None:
    """Raises CommandError for an image with data that no copy of ours is known to have made."""
    map_path = _map_of(target)
    # A corrupt one does not show it either.
    with suppress(FileNotFoundError, MapUnusable), ChunkMap.open(map_path):
        return
    command = ["qemu-img", "map", "--output=json", "-f", "qcow2", str(target)]
    found = HostCommands().run(command, timeout_seconds=_MAP_SECONDS)
    if found.status or any(area["data"] for area in json_module.loads(found.stdout)):
        raise CommandError(
            f"target_qcow2: {target} exists, and no chunk map says what it holds",
            f"It may be another machine's: delete it, and {map_path} if there is one, or give "
            "another name.",
        )


def _check_map(map_path: Path, disk_id: str) -> None:
    """Raises CommandError when the image holds another disk: it would be written over."""
    try:
        with ChunkMap.open(map_path) as found:
            before = found.header.disk_id
    except (FileNotFoundError, MapUnusable):
        return  # The worker reports what that means for the pass.
    if before != disk_id:
        raise CommandError(
            f"target_qcow2: the image holds the disk {before}, not {disk_id}",
            f"Correct vm_moref, disk_path or target_qcow2; or delete the image and {map_path}.",
        )


async def _transfer(
    order: TransferOrder, spec: ExpertSpec, *, ranges: list[Range] | None, shown: Shown
) -> None:
    """Run the worker to its end and say how it went. Raises ReportedError when it failed."""
    target = Path(order.target_path)
    map_path = _map_of(target)
    _check_map(map_path, order.disk_id)
    with scratch_folder(kill_processes_below) as folder:
        sets = RangeSets(folder)
        ranges_path = ""
        if ranges is not None:
            sets.put(_RANGES_ID, ranges, order.capacity_bytes)
            ranges_path = str(sets.path(_RANGES_ID))
        launcher = ProcessLauncher(
            folder / "run",
            checkpoint_seconds=_CHECKPOINT_SECONDS,
            checkpoint_bytes=_CHECKPOINT_BYTES,
        )
        worker = await launcher.launch(
            order,
            map_path=map_path,
            ranges_path=ranges_path,
            rate=0,
            password=spec.vddk.password,
        )
        running = asyncio.create_task(worker.run(shown.event))
        try:
            end = await asyncio.shield(running)
        except asyncio.CancelledError:
            # It makes a checkpoint before it ends.
            await worker.stop()
            await asyncio.gather(running, return_exceptions=True)
            raise
    if end["failure"] is not None:
        raise ReportedError(Failure.from_wire(end["failure"]))
    shown.end(target, end)
