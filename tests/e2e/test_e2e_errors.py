"""What goes wrong before anything is copied: one paragraph that helps, and nothing left behind."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.rigs.stack.checks import assert_nothing_left
from tests.rigs.stack.client import quick
from tests.rigs.stack.scenario import machine, scenario
from tests.rigs.stack.site import Process, Site, running_site


@pytest.fixture(scope="module")
def lab_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    contents = scenario(machine("web01"), machine("web02"), elsewhere=(machine("web02"),))
    with running_site(tmp_path_factory.mktemp("errors"), contents) as site:
        yield site


@dataclass(frozen=True)
class Attempt:
    """A ``v2c run`` with a mistake in it, and the control_dir it has for itself."""

    site: Site
    process: Process

    def paragraph(self, vm: str) -> str:
        """The line with how it ended for ``vm``."""
        found = [line for line in self.process.out.splitlines() if line.startswith(f"{vm}: failed")]
        assert len(found) == 1, self.process.out
        return found[0]


@pytest.fixture(scope="module")
def attempts(lab_site: Site) -> Iterator[dict[str, Attempt]]:
    """The runs that need services, all at the same time."""
    good = lab_site.spec_file("good", quick("web01"))
    wrong = lab_site.spec_file("wrong", quick("web1"), quick("web02"))
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    sites = {
        "password": (lab_site.variant("password", vcenter={"password": "not-it"}), good),
        "names": (lab_site.variant("names"), wrong),
        "key": (lab_site.variant("key", cloudstack={"secret_key": "not-it"}), good),
        "away": (lab_site.variant("away", vcenter={"port": port}), good),
    }
    started = {name: Attempt(site, site.run(spec)) for name, (site, spec) in sites.items()}
    yield started
    for attempt in started.values():
        attempt.process.end()


def _assert_no_traceback_nor_secret(process: Process, *secrets: str) -> None:
    for text in (process.out, process.err):
        assert "Traceback" not in text
        assert not [secret for secret in secrets if secret in text]


def test_a_wrong_vcenter_password(attempts: dict[str, Attempt]) -> None:
    attempt = attempts["password"]

    assert attempt.process.wait() == 1
    text = attempt.paragraph("web01")
    assert "vcenter.user 'administrator@vsphere.local'" in text
    assert "incorrect user name or password" in text
    assert "Correct vcenter.user and vcenter.password" in text
    _assert_no_traceback_nor_secret(attempt.process, "not-it")
    assert_nothing_left(attempt.site)


def test_an_unknown_machine(attempts: dict[str, Attempt]) -> None:
    attempt = attempts["names"]

    assert attempt.process.wait() == 1
    text = attempt.paragraph("web1")
    assert "no VM named 'web1'; the nearest names are 'web01', 'web02'" in text
    assert "vm.name" in text
    assert_nothing_left(attempt.site)


def test_an_ambiguous_name(attempts: dict[str, Attempt]) -> None:
    attempt = attempts["names"]

    assert attempt.process.wait() == 1
    text = attempt.paragraph("web02")
    assert re.search(r"2 VMs are named 'web02': vm-\d+ \(/Other DC/vm/web02\), vm-\d+ \(/T", text)
    assert "Set vm.moref in the spec" in text


def test_a_wrong_cloudstack_key(attempts: dict[str, Attempt]) -> None:
    attempt = attempts["key"]

    assert attempt.process.wait() == 1
    text = attempt.paragraph("web01")
    assert "unable to verify user credentials" in text
    assert "Correct cloudstack.api_key and cloudstack.secret_key" in text
    _assert_no_traceback_nor_secret(attempt.process, "not-it")
    assert_nothing_left(attempt.site)


def test_a_vcenter_that_does_not_answer(attempts: dict[str, Attempt]) -> None:
    """It may only be restarting, so it is tried again, visibly, until the operator gives up."""
    attempt = attempts["away"]
    vcenter = attempt.site.content["vcenter"]

    attempt.process.wait_for("tries again in")
    assert f"vCenter 127.0.0.1:{vcenter['port']} does not answer" in attempt.process.out
    attempt.process.interrupt()
    assert attempt.process.wait() == 130
    assert "web01: left in connecting_vcenter; its state is kept" in attempt.process.out
    assert_nothing_left(attempt.site)


def _refused(site: Site, content: dict[str, object]) -> Process:
    process = site.run(site.spec_file("refused", content))
    assert process.wait() != 0
    assert process.out == ""
    # Nothing was even begun.
    assert not (site.control_dir / "run").exists()
    return process


def test_a_missing_vddk(lab_site: Site) -> None:
    site = lab_site.variant("vddk", migration={"vddk_path": "/opt/nowhere/vddk"})

    process = _refused(site, quick("web01"))

    assert process.err.splitlines() == [
        "v2c: migration.vddk_path: /opt/nowhere/vddk has no lib64/libvixDiskLib.so. "
        "Unpack VMware's VDDK and give the folder that holds its lib64."
    ]


def test_a_typo_in_the_spec(lab_site: Site) -> None:
    site = lab_site.variant("spec typo")

    process = _refused(site, {"vm": {"name": "web01"}, "migration": {"delta_intervall": 5}})

    (line,) = process.err.splitlines()
    assert re.search(r"refused\.yaml:4:3: migration\.delta_intervall: .*not a known key", line)
    assert "Did you mean delta_interval?" in line


def test_a_typo_in_the_config(lab_site: Site) -> None:
    site = lab_site.variant("config typo", migration={"paralel_vms": 2})

    process = _refused(site, quick("web01"))

    (line,) = process.err.splitlines()
    assert re.search(r"config\.yaml:\d+:3: migration\.paralel_vms: .*not a known key", line)
    assert "Did you mean parallel_vms?" in line


def test_every_mistake_of_a_spec_is_reported_at_once(lab_site: Site) -> None:
    site = lab_site.variant("mistakes")

    process = _refused(
        site,
        {
            "vm": {"nam": "web01"},
            "migration": {"finalize_at": "next tuesday", "shutdown_mode": "gently"},
        },
    )

    message = process.err
    for field, value in {
        "vm.nam": "",
        "finalize_at": "next tuesday",
        "shutdown_mode": "gently",
    }.items():
        assert field in message
        assert value in message
