"""Host names, signatures, versions and NFS options."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cloudstack_agent.client.signing import encode, sign, signature
from services.cloudstack_agent.connection import version_numbers
from services.cloudstack_agent.hostnames import legal_hostname
from services.cloudstack_agent.server import nfs_options
from services.cloudstack_agent.storage_pools import UBUNTU_NFS_OPTIONS

LEGAL = re.compile(r"(?![0-9-])[A-Za-z0-9-]{1,63}(?<!-)")


@pytest.mark.parametrize(
    ("name", "suffix", "expected"),
    [
        ("web-1", "", "web-1"),
        ("Web Server (old) 1", "", "Web-Server-old-1"),
        ("1st", "", "vm-1st"),
        ("-a-", "", "a"),
        ("ünïcode.example.org", "", "n-code-example-org"),
        ("数据库", "", "vm"),
        ("数据库", "vm-17", "vm-vm-17"),
        ("x" * 80, "", "x" * 60),
        ("x" * 80, "vm-1234", "x" * 55 + "-vm-1234"),
        ("web", "VM_17/2", "web-VM-17-2"),
    ],
)
def test_host_names_are_made_legal(name: str, suffix: str, expected: str) -> None:
    assert legal_hostname(name, suffix) == expected


@given(st.text(max_size=90), st.text(max_size=90))
def test_any_name_gives_a_legal_host_name(name: str, suffix: str) -> None:
    assert LEGAL.fullmatch(legal_hostname(name, suffix))


@given(st.text(min_size=1, max_size=80))
def test_machines_of_one_name_stay_apart(name: str) -> None:
    assert legal_hostname(name, "vm-1") != legal_hostname(name, "vm-2")


def test_values_are_encoded_as_java_does() -> None:
    assert encode("a~b*c d+e/ü._-") == "a%7Eb*c%20d%2Be%2F%C3%BC._-"


def test_the_sort_is_case_sensitive_and_before_lowercasing() -> None:
    # Sorted by raw name: "UEFI" is before "cpuNumber". HMAC computed with openssl dgst.
    parameters = {"details[0].cpuNumber": "2", "details[0].UEFI": "SECURE"}
    swapped = dict(reversed(parameters.items()))
    assert signature(parameters, "key") == signature(swapped, "key")
    assert signature(parameters, "key") == "k9SINuYjBIWd6bqVoilItRNcrtM="


def test_a_request_expires_ten_minutes_after_it_was_made() -> None:
    now = datetime(2026, 7, 1, 12, 0, tzinfo=UTC)
    request = sign("listZones", {"name": "a"}, api_key="k", secret_key="s", now=now)
    assert request["expires"] == "2026-07-01T12:10:00+0000"
    assert (request["signatureVersion"], request["response"]) == ("3", "json")
    unsigned = {key: value for key, value in request.items() if key != "signature"}
    assert request["signature"] == signature(unsigned, "s")
    assert "s" not in unsigned.values()


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("4.22.1.0", (4, 22, 1, 0)), ("4.23.0.0-SNAPSHOT", (4, 23, 0, 0)), ("main", ())],
)
def test_versions_are_read_leniently(text: str, numbers: tuple[int, ...]) -> None:
    assert version_numbers(text) == numbers


@pytest.mark.parametrize(
    ("environment", "os_release", "expected"),
    [
        ({}, {"ID": "debian"}, "nconnect=4"),
        ({}, {"ID": "ubuntu", "ID_LIKE": "debian"}, UBUNTU_NFS_OPTIONS),
        ({}, {"ID": "pop", "ID_LIKE": "ubuntu debian"}, UBUNTU_NFS_OPTIONS),
        ({"V2C_NFS_MOUNT_OPTS": "vers=4.2"}, {"ID": "ubuntu"}, "vers=4.2"),
        ({}, {}, "nconnect=4"),
    ],
)
def test_nfs_options(
    environment: dict[str, str], os_release: dict[str, str], expected: str
) -> None:
    assert nfs_options(environment, os_release).choose("nconnect=4") == expected
