"""Which failure is raised when libvixDiskLib did not open a disk: by number, else by text."""

from dataclasses import replace

import pytest

from services.disk_agent.vddk.error_line import error_line, reported_error
from services.disk_agent.worker.order import VddkSpec
from services.disk_agent.worker.vddk_failures import CAUSES, open_failure, without_names

SPEC = VddkSpec(
    server="vc.test",
    user="administrator@vsphere.local",
    thumbprint="12:34",
    library_dir="/opt/vddk",
    vm_moref="vm-1",
    snapshot_moref="snapshot-1",
    disk_path="[ds] a/a.vmdk",
)
LOGIN = "VixDiskLib_ConnectEx: Cannot complete login due to an incorrect user name or password"


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (4, "VDDK_DISK_NOT_FOUND"),
        (6, "VDDK_TRANSPORT"),
        (13, "VDDK_LOGIN"),
        (3014, "VDDK_LOGIN"),
        (4000, "VDDK_DISK_NOT_FOUND"),
        (13000, "VDDK_DISK_NOT_FOUND"),
        (14009, "VDDK_CONNECTION"),
        (18002, "VDDK_HOST"),
    ],
)
@pytest.mark.parametrize("text", ["", LOGIN, "SSL: the thumbprint does not match"])
def test_a_number_decides_against_a_misleading_text(number: int, reason: str, text: str) -> None:
    failure = open_failure(SPEC, text, number)
    assert failure.reason == reason
    assert failure.metadata == {"vix_error": str(number)}
    assert text in failure.message


@pytest.mark.parametrize("number", [None, 1, 2, 65535])
@pytest.mark.parametrize(
    ("text", "reason", "retryable"),
    [
        ("SSL: PeerThumbprint: 00, ExpectedThumbprint: 11", "VDDK_CERTIFICATE", False),
        (LOGIN, "VDDK_LOGIN", False),
        ("getaddrinfo: Name or service not known", "VDDK_HOST", True),
        ("VixDiskLib_ConnectEx: Cannot connect to host", "VDDK_CONNECTION", True),
        ("NBD_ERR_INSUFFICIENT_RESOURCES: out of memory", "VDDK_CONNECTION", True),
        ("VixDiskLib_Open: The snapshot does not exist", "VDDK_DISK_NOT_FOUND", False),
        ("VixDiskLib_Open: The operation is not supported", "VDDK_TRANSPORT", False),
        ("nbdssl: The server refused connection", "VDDK_CONNECTION", True),
        ("VixDiskLib_ConnectEx: Unknown error", "VDDK_OPEN_FAILED", True),
    ],
)
def test_the_text_decides_where_no_number_does(
    number: int | None, text: str, reason: str, retryable: bool
) -> None:
    failure = open_failure(SPEC, text, number)
    assert (failure.reason, failure.failure.retryable) == (reason, retryable)
    assert failure.hint


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Login failure. Callback error 18000", "VDDK_CONNECTION"),
        ("Login failure; SSL: PeerThumbprint: 00, ExpectedThumbprint: 11", "VDDK_CERTIFICATE"),
        ("Login failure; vc.test: Name or service not known", "VDDK_HOST"),
        ("", "VDDK_CONNECTION"),
    ],
)
def test_an_unreachable_host_is_not_a_refused_login(text: str, reason: str) -> None:
    assert open_failure(SPEC, text, 18000).reason == reason


@pytest.mark.parametrize(
    "text",
    [
        "VixDiskLib_Open: [SSL certs] login-failed-01/login-failed-01.vmdk: A file was not found",
        "VixDiskLib_Open: A file was not found: [SSL certs] login-failed-01/login-failed-01_2.vmdk",
        "esx-permission.test:902: a file was not found below /vmfs/volumes/SSL certs",
        "vpxa-nfcssl://[SSL certs] login-failed-01/login-failed-01.vmdk@esx.test: not found",
        "machine login-failed-01 was not found by SSL-reader",
    ],
)
def test_a_machine_cannot_choose_its_own_error(text: str) -> None:
    spec = replace(
        SPEC, user="SSL-reader", disk_path="[SSL certs] login-failed-01/login-failed-01.vmdk"
    )
    failure = open_failure(spec, text, None)
    assert failure.reason == "VDDK_DISK_NOT_FOUND"
    # The message for people keeps the names.
    assert text in failure.message


def test_only_whole_names_are_removed() -> None:
    spec = replace(SPEC, disk_path="[a] log/in.vmdk")
    assert "login" in without_names("cannot login to a host", spec)


def test_no_number_belongs_to_two_causes() -> None:
    numbers = [number for cause in CAUSES for number in cause.numbers]
    assert len(numbers) == len(set(numbers))


def test_a_number_is_read_from_a_line_of_its_own() -> None:
    line = error_line("Open", 13)
    assert reported_error(line) == 13
    assert reported_error(f"nbdkit: vddk: {line}") is None
    assert reported_error(f"{line} and more") is None


def test_without_a_message_of_the_library_no_cause_is_guessed() -> None:
    """What libnbd prints always has the word connect."""
    failure = open_failure(SPEC, "", None, otherwise="cannot connect to nbd+unix:///: no export")
    assert failure.reason == "VDDK_OPEN_FAILED"
    assert "no export" in failure.message
