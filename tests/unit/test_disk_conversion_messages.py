"""The messages of virt-v2v, and the failures and warnings made of them."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from services.disk_agent.conversions.acceleration import KvmProbe, libguestfs_environment
from services.disk_agent.conversions.diagnosis import classify, el9_warning
from services.disk_agent.conversions.failures import CAUSES
from services.disk_agent.conversions.messages import (
    MessageFile,
    Reported,
    inspected_guest,
    with_line,
)
from services.disk_agent.conversions.virt_v2v import (
    conversion_environment,
    domain_xml,
    find_virt_v2v,
)
from services.disk_agent.host.commands import Completed
from services.disk_agent.host.errors import ToolMissing, ToolTimeout

# As virt-v2v 2.0 to 2.4 and libguestfs print them.
MESSAGES = {
    "NO_OPERATING_SYSTEM": [
        "inspection could not detect the source guest (or physical machine) operating system.",
        "no root device found in this operating system image.",
    ],
    "GUEST_ENCRYPTED": ["could not find key to open LUKS encrypted /dev/sda2."],
    "GUEST_FILESYSTEM_DIRTY": [
        "filesystem was mounted read-only, even though we asked for it to be mounted read-write. "
        "This usually means that the filesystem was not cleanly unmounted.",
        "Windows Hibernation or Fast Restart is in use in this guest.",
    ],
    "GUEST_DISK_FULL": [
        "not enough free space for conversion on filesystem ‘/’.  3.0 MB free < 50 MB needed",
        "not enough available inodes for conversion on filesystem ‘/’.",
    ],
    "HOST_DISK_FULL": [
        "insufficient free space in the conversion server temporary directory /var/tmp (0.5 MB).",
        "qemu-img: error while writing: No space left on device",
    ],
    "GUEST_BOOTLOADER_MISSING": ["no bootloader detected"],
    "GUEST_MULTI_BOOT": ["multi-boot operating systems are not supported by virt-v2v."],
    "IMAGE_LOCKED": ['qemu-nbd: Failed to get "write" lock\nIs another process using the image?'],
    "GUEST_KERNEL_UNKNOWN": [
        "no installed kernel packages were found.",
        "no kernels were found in the bootloader configuration.",
    ],
    "GUEST_UNSUPPORTED": ["virt-v2v is unable to convert this guest type (freebsd/freebsd)"],
    "GUEST_INITRAMFS_FAILED": [
        "libguestfs error: command: /usr/sbin/update-initramfs -c -k 6.1: exit status 1",
        "unable to rebuild initrd (/boot/initrd.img-1) because update-initramfs was not found",
    ],
    "APPLIANCE_FAILED": [
        "libguestfs error: guestfs_launch failed.",
        "libguestfs error: /usr/bin/supermin exited with error status 1.",
    ],
}


@pytest.mark.parametrize(
    ("reason", "message"), [(reason, text) for reason, texts in MESSAGES.items() for text in texts]
)
def test_a_known_failure_names_its_cause_and_the_next_step(reason: str, message: str) -> None:
    failure = classify([message], "", guest_os="Debian 12", version="2.2.0", status=1)
    assert failure.reason == reason
    assert message[:40] in failure.message
    assert failure.hint


def test_every_cause_is_covered() -> None:
    assert {cause.reason for cause in CAUSES} == set(MESSAGES)


def test_a_cause_in_the_log_counts_only_where_something_failed() -> None:
    noise = "[    0.1] PM: hibernation: Registered\nguestfsd: error: no root device found\n"
    unknown = classify([], noise, guest_os="", version="2.2.0", status=1)
    assert unknown.reason == "CONVERSION_FAILED"
    known = classify(
        [], noise + "libguestfs: error: appliance closed the connection unexpectedly.\n",
        guest_os="", version="2.2.0", status=1,
    )  # fmt: skip
    assert (known.reason, known.retryable) == ("APPLIANCE_FAILED", True)
    logged = classify(
        [], "virt-v2v-in-place: error: no bootloader detected\n",
        guest_os="", version="2.2.0", status=1,
    )  # fmt: skip
    assert logged.reason == "GUEST_BOOTLOADER_MISSING"


def test_an_unknown_failure_keeps_the_message() -> None:
    failure = classify(["something new"], "", guest_os="", version="9.9.9", status=137)
    assert failure.reason == "CONVERSION_FAILED"
    assert "something new" in failure.message
    assert "signal 9" in failure.message


@pytest.mark.parametrize(
    ("guest", "version", "warned"),
    [
        ("Red Hat Enterprise Linux 9.4 (Plow)", "2.2.0", True),
        ("Rocky Linux 9.3 (Blue Onyx)", "2.3.3", True),
        ("Rocky Linux 9.3 (Blue Onyx)", "2.3.4", False),
        ("AlmaLinux 8.9", "2.2.0", False),
        ("Debian 12.11", "2.2.0", False),
    ],
)
def test_el_9_with_an_old_virt_v2v_is_warned_of(guest: str, version: str, warned: bool) -> None:
    assert (el9_warning(guest, version) is not None) == warned
    hint = classify([], "", guest_os=guest, version=version, status=1).hint
    assert ("2.3.4" in hint) == warned


def test_messages_become_step_warnings_and_findings() -> None:
    reported = Reported()
    for line in (
        '{ "message": "Setting up the source: -i disk x", "type": "message" }',
        "no JSON",
        '{ "message": "Converting Fedora 40 to run on KVM", "type": "message" }',
        '{ "message": "mind the gap", "type": "warning" }',
        '{ "message": "This guest requires UEFI on the target to boot.", "type": "info" }',
        '{ "message": "This guest has virtio drivers installed.", "type": "info" }',
        '{ "type": "progress" }',
        '{ "message": "Finishing off", "type": "message" }',
    ):
        reported = with_line(reported, line)
    assert reported.step == "Finishing off"
    assert reported.warnings == ("mind the gap",)
    assert reported.guest_os == "Fedora 40"
    assert reported.requires_uefi
    assert not reported.drivers_missing
    info = '{"message": "This guest does not have virtio drivers installed.", "type": "info"}'
    assert with_line(reported, info).drivers_missing


def test_each_whole_line_of_the_message_file_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "messages"
    file = MessageFile(path)
    assert file.read() == []
    path.write_text("one\ntw")
    assert file.read() == ["one"]
    with path.open("a") as more:
        more.write("o\nthree\n")
    assert file.read() == ["two", "three"]


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("i_distro = debian\ni_product_name = 12.11\n", "Debian 12.11"),
        ("i_distro = windows\ni_product_name = Windows Server 2022\n", "Windows Server 2022"),
        ("nothing", ""),
    ],
)
def test_the_guests_name_is_taken_from_the_inspection(
    tmp_path: Path, log: str, expected: str
) -> None:
    path = tmp_path / "log"
    path.write_text(f"noise\n{log}")
    assert inspected_guest(path) == expected


class Program:
    """Answers of one program, by the argument."""

    def __init__(self, **answers: str) -> None:
        self.answers = answers

    def run(self, command: Sequence[str], *, timeout_seconds: float) -> Completed:
        return Completed(0, self.answers[command[1].strip("-")])


def installed(directory: Path) -> Path:
    tool = directory / "virt-v2v-in-place"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    return tool


def test_virt_v2vs_options_are_taken_from_its_help(tmp_path: Path) -> None:
    tool = installed(tmp_path)
    program = Program(version="virt-v2v-in-place 2.12.1", help="  --no-fstrim  Do not trim\n")
    found = find_virt_v2v(program, str(tmp_path))
    command = found.command((Path("/o.qcow2"),), Path("/m"), Path("/d.xml"))
    assert found.version == "2.12.1"
    assert command == [
        str(tool), "-v", "--machine-readable=file:/m", "--root", "first", "--no-fstrim",
        "-i", "disk", "/o.qcow2",
    ]  # fmt: skip
    older = find_virt_v2v(Program(version="virt-v2v 2.2.0rhel=9", help="  --root x"), str(tmp_path))
    several = older.command((Path("/a"), Path("/b")), Path("/m"), Path("/d.xml"))
    assert "--no-fstrim" not in several
    assert several[-3:] == ["-i", "libvirtxml", "/d.xml"]


def test_a_missing_virt_v2v_names_the_package(tmp_path: Path) -> None:
    with pytest.raises(ToolMissing) as missing:
        find_virt_v2v(Program(), str(tmp_path))
    assert "virt-v2v" in missing.value.hint


def test_the_domain_names_the_disks_in_order_and_escapes() -> None:
    xml = domain_xml("a<b", tuple(Path(f"/p&q/{n}.qcow2") for n in range(28)))
    assert "<name>a&lt;b</name>" in xml
    assert xml.index("/p&amp;q/0.qcow2") < xml.index("/p&amp;q/1.qcow2")
    assert "dev='sda'" in xml
    assert "dev='sdz'" in xml
    assert "dev='sdab'" in xml


def test_the_environment_passes_no_secrets_on(tmp_path: Path) -> None:
    iso = tmp_path / "virtio-win.iso"
    base = {"PATH": "/bin", "VC_PASSWORD": "secret", "LIBGUESTFS_PATH": "/fixed", "LANG": "de"}
    given = conversion_environment(
        base, {"LIBGUESTFS_BACKEND": "direct"}, temporary=Path("/t"), large_temporary=Path("/l"),
        virtio_iso=iso,
    )  # fmt: skip
    assert given == {
        "PATH": "/bin",
        "LIBGUESTFS_PATH": "/fixed",
        "LIBGUESTFS_BACKEND": "direct",
        "LC_ALL": "C",
        "TMPDIR": "/t",
        "VIRT_V2V_TMPDIR": "/l",
    }
    iso.touch()
    with_drivers = conversion_environment(
        base, {}, temporary=Path("/t"), large_temporary=Path("/l"), virtio_iso=iso
    )
    assert with_drivers["VIRTIO_WIN"] == str(iso)


class Kernel:
    """A qemu whose kernel boots, hangs or fails."""

    def __init__(self, outcome: int | Exception) -> None:
        self.outcome = outcome
        self.calls = 0

    def run(self, command: Sequence[str], *, timeout_seconds: float) -> Completed:
        self.calls += 1
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return Completed(self.outcome)


@pytest.mark.parametrize(
    ("outcome", "works"),
    [(0, True), (1, False), (ToolTimeout(message="hangs"), False)],
)
def test_kvm_works_where_a_kernel_boots_and_is_asked_once_per_boot(
    tmp_path: Path, outcome: int | Exception, works: bool
) -> None:
    device = tmp_path / "kvm"
    device.touch()
    (tmp_path / "vmlinuz-1").touch()
    kernel = Kernel(outcome)
    probes = [KvmProbe(kernel, tmp_path, device=device, boot=tmp_path) for _ in range(2)]
    assert [probe.works() for probe in probes] == [works, works]
    assert kernel.calls == 1


def test_without_the_device_nothing_is_booted(tmp_path: Path) -> None:
    kernel = Kernel(0)
    assert not KvmProbe(kernel, tmp_path, device=tmp_path / "kvm", boot=tmp_path).works()
    assert kernel.calls == 0


def test_libguestfs_emulates_only_without_kvm_and_the_operator_decides() -> None:
    emulated = libguestfs_environment(False, {}, Path("/c"))
    assert emulated["LIBGUESTFS_BACKEND_SETTINGS"] == "force_tcg"
    assert "LIBGUESTFS_BACKEND_SETTINGS" not in libguestfs_environment(True, {}, Path("/c"))
    own = libguestfs_environment(True, {"LIBGUESTFS_BACKEND": "libvirt"}, Path("/c"))
    assert own["LIBGUESTFS_BACKEND"] == "libvirt"
