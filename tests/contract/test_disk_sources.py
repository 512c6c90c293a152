"""What every kind of source promises to the copy engine, one suite over all of them."""

import contextlib
import errno
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import nbd
import pytest

from lab.esxi.client import DiskFault
from lab.esxi.process import EsxiProcess, start_esxi
from services.disk_agent import capabilities
from services.disk_agent.conversions.acceleration import KvmProbe
from services.disk_agent.engine.endpoint import Endpoint
from services.disk_agent.host.commands import HostCommands
from services.disk_agent.transfer_failures import (
    NbdkitFilterMissing,
    NbdkitMissing,
    NbdkitPluginMissing,
    SourceFailed,
    SourceLost,
    SourceUnusable,
)
from services.disk_agent.worker import nbdkit
from services.disk_agent.worker.order import NbdSpec, SourceSpec, VddkSpec
from services.disk_agent.worker.password import Password
from services.disk_agent.worker.sources import Source, VddkSource, source_for
from tests.rigs.disk.transfer import BLOCK, serving, write_disk
from tests.rigs.lab.esxi import NATIVE, PASSWORD, build_vddk

LETTERS = "AAAA----BBBBC0-D" * 4
# No whole number of VDDK's chunks.
EXTRA = 3 * 512


@dataclass
class Host:
    """An ESXi with one disk in a snapshot, and the library to read it with."""

    esxi: EsxiProcess
    library: Path
    raw: Path
    size: int


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("h")
    raw = folder / "source.raw"
    size = write_disk(raw, LETTERS, extra_bytes=EXTRA)
    with start_esxi(folder / "esxi") as esxi:
        esxi.client.add_disk("vm-1", 2000, "[ds] a/a.vmdk", size, raw)
        esxi.client.set_tracking("vm-1", 2000, True)
        esxi.client.create_snapshot("vm-1", "snapshot-1", [2000])
        yield Host(esxi, build_vddk(folder / "vddk", esxi), raw, size)


@dataclass
class Kind:
    """A kind of source with the same disk behind it, and the ways to trouble it."""

    source: Source
    missing: Source
    folder: Path
    fail_reads: Callable[[], None]
    repair_reads: Callable[[], None]
    # Its server is not the source's to start.
    somebody_elses: bool = False
    # It is read through our plugin.
    python: bool = False

    def kill_server(self) -> None:
        os.kill(int((self.folder / "source.pid").read_text()), signal.SIGKILL)


@pytest.fixture(params=["nbd", "vddk-python", "vddk-native"])
def kind(
    request: pytest.FixtureRequest,
    host: Host,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Kind]:
    """Any kind of source."""
    if request.param == "nbd":
        yield from _nbd(host, tmp_path)
    else:
        yield from _vddk(host, tmp_path, monkeypatch, native=request.param == "vddk-native")


@pytest.fixture(params=["vddk-python", "vddk-native"])
def vddk(
    request: pytest.FixtureRequest,
    host: Host,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Kind]:
    """A kind of source that is read through nbdkit."""
    yield from _vddk(host, tmp_path, monkeypatch, native=request.param == "vddk-native")


def _nbd(host: Host, folder: Path) -> Iterator[Kind]:
    failing = folder / "failing"
    errors = ("error-pread=EIO", "error-pread-rate=100%", f"error-pread-file={failing}")
    with serving(folder, "--filter=error", "file", str(host.raw), *errors):
        yield Kind(
            _source(NbdSpec(f"nbd+unix:///?socket={folder}/source.sock"), folder),
            _source(NbdSpec(f"nbd+unix:///?socket={folder}/none.sock"), folder),
            folder,
            failing.touch,
            failing.unlink,
            somebody_elses=True,
        )


def _vddk(
    host: Host, folder: Path, monkeypatch: pytest.MonkeyPatch, *, native: bool
) -> Iterator[Kind]:
    if (
        native
        and subprocess.run(
            ["nbdkit", NATIVE, "--dump-plugin"], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("nbdkit's own vddk plugin is not installed")
    monkeypatch.setattr(nbdkit, "probe", lambda: nbdkit.Nbdkit("1", native, not native))
    real = nbdkit.vddk_command
    monkeypatch.setattr(
        nbdkit,
        "vddk_command",
        lambda *args, **options: [
            NATIVE if word == "vddk" else word for word in real(*args, **options)
        ],
    )

    def spec(snapshot: str) -> VddkSpec:
        return VddkSpec(
            server="vc.test",
            user="administrator@vsphere.local",
            thumbprint="12:34:AB:CD",
            library_dir=str(host.library),
            vm_moref="vm-1",
            snapshot_moref=snapshot,
            disk_path="[ds] a/a.vmdk",
            transports="nbdssl:nbd",
            port=8443,
        )

    client = host.esxi.client
    try:
        yield Kind(
            _source(spec("snapshot-1"), folder),
            _source(spec("snapshot-7"), folder),
            folder,
            lambda: _ignore(client.inject_fault(DiskFault("read_error", count=0))),
            client.clear_faults,
            python=not native,
        )
    finally:
        client.clear_faults()


def _source(spec: SourceSpec, folder: Path) -> Source:
    return source_for(spec, Password(PASSWORD), folder, read_bytes=BLOCK)


def _ignore(_number: int) -> None:
    """Of all faults, none is cleared by its number here."""


def _content(endpoint: Endpoint) -> bytes:
    size, step = endpoint.size_bytes, 1 << 20
    handle = endpoint.handle
    return b"".join(bytes(handle.pread(min(step, size - at), at)) for at in range(0, size, step))


def _read(endpoint: Endpoint, offset: int, length: int) -> int:
    """Read as the engine does; the errno of the completion."""
    endpoint.read(memoryview(bytearray(length)), offset, "token")
    while not endpoint.collect():
        endpoint.handle.poll(-1)
    token, error = endpoint.completions.popleft()
    assert token == "token"
    return error


def test_size_and_every_byte_are_the_disks(kind: Kind, host: Host) -> None:
    with kind.source.open() as endpoint:
        assert endpoint.size_bytes == host.size
        assert endpoint.handle.is_read_only()
        assert _content(endpoint) == host.raw.read_bytes()


def test_extents_cover_the_disk_and_zero_means_zero(kind: Kind, host: Host) -> None:
    with kind.source.open() as endpoint:
        assert endpoint.has_extents
        found = endpoint.extents(0, host.size)
    disk = host.raw.read_bytes()
    at = 0
    for offset, length, zero in found:
        assert offset == at
        at += length
        assert not zero or not any(disk[offset : offset + length])
    assert at == host.size
    # The holes of the disk are known: they are not read.
    holes = sum(letter == "-" for letter in LETTERS) * BLOCK
    assert sum(length for _, length, zero in found if zero) >= holes


def test_a_part_of_the_extents_can_be_asked_for(kind: Kind) -> None:
    with kind.source.open() as endpoint:
        found = endpoint.extents(5 * BLOCK, 4 * BLOCK)
    assert [(offset // BLOCK, length // BLOCK, zero) for offset, length, zero in found] == [
        (5, 3, True),
        (8, 1, False),
    ]


def test_many_requests_in_flight_arrive_whole(kind: Kind, host: Host) -> None:
    disk = host.raw.read_bytes()
    with kind.source.open() as endpoint:
        buffers = {at: bytearray(BLOCK) for at in range(0, 32 * BLOCK, BLOCK)}
        for at, buffer in buffers.items():
            endpoint.read(memoryview(buffer), at, at)
        while len(endpoint.completions) < len(buffers):
            endpoint.handle.poll(-1)
            endpoint.collect()
        assert {error for _, error in endpoint.completions} == {0}
        for at, buffer in buffers.items():
            assert buffer == disk[at : at + BLOCK]


def test_a_failed_read_leaves_the_connection_usable(kind: Kind) -> None:
    with kind.source.open() as endpoint:
        kind.fail_reads()
        error = _read(endpoint, 0, BLOCK)
        assert error
        failure = endpoint.failure(error)
        assert isinstance(failure, SourceFailed)
        assert not isinstance(failure, SourceLost)
        kind.repair_reads()
        assert _read(endpoint, 0, BLOCK) == 0


def test_a_dead_server_is_a_lost_source_and_can_be_opened_again(kind: Kind, host: Host) -> None:
    with pytest.raises(SourceLost), kind.source.open() as endpoint:
        _kill_and_read(kind, endpoint)
    if kind.somebody_elses:
        with pytest.raises(SourceUnusable) as caught, kind.source.open():
            pass
        assert caught.value.retryable
        return
    with kind.source.open() as endpoint:
        assert _content(endpoint) == host.raw.read_bytes()


def _kill_and_read(kind: Kind, endpoint: Endpoint) -> None:
    kind.kill_server()
    try:
        # It may answer once more before it is gone.
        while not (error := _read(endpoint, 0, BLOCK)):
            pass
    except nbd.Error as lost:
        raise endpoint.failure(lost.errnum or errno.EIO) from lost
    raise endpoint.failure(error)


def test_what_cannot_be_opened_is_unusable_with_a_message(kind: Kind) -> None:
    with pytest.raises(SourceUnusable) as caught, kind.missing.open():
        pass
    assert caught.value.message
    assert PASSWORD not in str(caught.value.failure.to_wire())
    if kind.somebody_elses:
        # The server may be restarting.
        assert caught.value.failure.retryable
    else:
        assert caught.value.reason == "VDDK_DISK_NOT_FOUND"


def _vddk_source(kind: Kind) -> VddkSource:
    if not isinstance(kind.source, VddkSource):
        raise TypeError(f"{kind.source} is not read through nbdkit")
    return kind.source


def test_a_name_does_not_choose_the_error(vddk: Kind) -> None:
    """Whichever plugin reads, and whatever the machine and its datastore are called."""
    source = _vddk_source(vddk)
    path = "[thumbprint] login failed/incorrect user name or password.vmdk"
    source = replace(source, spec=replace(source.spec, disk_path=path))
    with pytest.raises(SourceUnusable) as caught, source.open():
        pass
    assert caught.value.reason == "VDDK_DISK_NOT_FOUND"
    assert path in caught.value.message
    if vddk.python:
        assert caught.value.metadata == {"vix_error": "4"}
        assert "returned VixError" not in caught.value.message


def test_the_password_is_in_no_repr(vddk: Kind) -> None:
    source = _vddk_source(vddk)
    shown = f"{source} {asdict(source)} {source.password} {source.password!r}"
    assert "password" in shown
    assert PASSWORD not in shown


@pytest.mark.parametrize("chunk", [2 << 20, 4 << 20])
def test_the_plugin_gets_reads_of_at_most_2_mib(
    vddk: Kind, host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chunk: int
) -> None:
    source = replace(_vddk_source(vddk), read_bytes=chunk)
    log = tmp_path / "plugin.log"
    real = nbdkit.vddk_command

    def logged(*args: Any, **options: Any) -> list[str]:
        # The last filter is the one above the plugin.
        command = real(*args, **options)
        plugin = command.index("python" if vddk.python else NATIVE)
        return [*command[:plugin], "--filter=log", *command[plugin:], f"logfile={log}"]

    monkeypatch.setattr(nbdkit, "vddk_command", logged)
    with source.open() as endpoint:
        assert bytes(endpoint.handle.pread(chunk, 0)) == host.raw.read_bytes()[:chunk]
    sizes = re.findall(r" Read id=\d+ offset=\S+ count=(0x[0-9a-f]+)", log.read_text())
    # Our plugin takes larger ones, and splits them for the library.
    expected = [chunk] if vddk.python else [2 << 20] * (chunk >> 21)
    assert [int(size, 16) for size in sizes] == expected


def test_a_missing_filter_names_its_package(vddk: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _vddk_source(vddk)
    monkeypatch.setattr(nbdkit, "has_filter", lambda name: False)
    with source.open():
        pass
    large = replace(source, read_bytes=4 << 20)
    if vddk.python:
        with large.open():
            return
    with pytest.raises(NbdkitFilterMissing, match="blocksize") as caught, large.open():
        pass
    assert "package" in caught.value.hint


def test_opening_again_and_again_leaves_nothing(kind: Kind, host: Host) -> None:
    before = {path.name for path in kind.folder.iterdir()}
    for _ in range(3):
        with kind.source.open() as endpoint:
            assert _read(endpoint, 8 * BLOCK, BLOCK) == 0
    assert {path.name for path in kind.folder.iterdir()} == before
    assert _processes_below(kind.folder) == kind.somebody_elses


def _processes_below(folder: Path) -> int:
    found = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                found += f"{folder}/source.sock".encode() in (entry / "cmdline").read_bytes()
    return found


def test_a_host_without_nbdkit_reads_from_nbd_servers_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    nbdkit.probe.cache_clear()
    with pytest.raises(NbdkitMissing) as caught:
        nbdkit.probe()
    assert "nbdkit-plugin-python" in caught.value.hint
    found = capabilities.probe(KvmProbe(HostCommands(), tmp_path, device=tmp_path / "kvm"))
    assert found.sources == ("nbd",)
    assert found.versions == {}


def test_an_nbdkit_without_plugins_reads_no_vmware_disk(host: Host, tmp_path: Path) -> None:
    spec = VddkSpec("vc.test", "u", "", str(host.library), "vm-1", "snapshot-1", "[ds] a/a.vmdk")
    with pytest.raises(NbdkitPluginMissing) as caught:
        nbdkit.vddk_command(spec, nbdkit.Nbdkit("1", False, False), tmp_path, tmp_path, 3)
    assert "nbdkit-plugin-python" in caught.value.hint


def test_the_filter_that_large_reads_need_comes_with_nbdkit() -> None:
    assert nbdkit.has_filter("blocksize")
    assert not nbdkit.has_filter("no-such-filter")
