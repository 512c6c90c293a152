"""A pool without room for the image: reported before the copy, and corrected while it waits."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.rigs.stack.checks import assert_migrated, data_path_of
from tests.rigs.stack.client import client_of, quick
from tests.rigs.stack.scenario import machine, scenario
from tests.rigs.stack.site import Serving, Site, running_site, serving

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small pool needs root")


def _mount(pool: Path, options: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(pool)]
    subprocess.run(command, check=True)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A lab whose pool has room for nothing."""
    pool = tmp_path / "lab" / "pool"
    pool.mkdir(parents=True)
    _mount(pool, "size=1m")
    try:
        with running_site(tmp_path, scenario(machine("big", 24))) as running:
            yield running
    finally:
        subprocess.run(["umount", "--lazy", str(pool)], check=True)


def assert_values_everywhere(site: Site, running: Serving, values: dict[str, str]) -> None:
    """The error's metadata as REST, the CLI and state.json give it."""
    headers = {"Authorization": f"Bearer {running.token}"}
    status = httpx.get(f"{running.rest}/migration/status/big", headers=headers).json()
    assert status["error"]["metadata"] == values
    shown = site.v2c("status", "--json")
    assert shown.wait() == 0, shown.err
    (row,) = json.loads(shown.out)
    assert row["error"]["metadata"] == values
    written = json.loads((Path(status["runtime_dir"]) / "state.json").read_text())
    assert written["error"]["metadata"] == values


def test_a_full_pool_is_reported_with_its_numbers_and_retried(site: Site) -> None:
    spec = site.spec_file("big", quick("big"))
    with serving(site) as running, client_of(site) as client:
        run = site.run(spec)
        assert run.wait() == 1
        (text,) = [line for line in run.out.splitlines() if line.startswith("big: failed in")]
        assert "full" in text
        free, needed = re.findall(r"(\d+) bytes", text)
        assert int(free) <= 1 << 20 < int(needed) <= 24 << 20
        assert "ake space on the storage pool" in text
        assert "v2c retry --vm big" in text
        assert data_path_of(site) == {}
        assert not list(site.pool.glob("*.qcow2")), "refused before anything was written"
        failed = client.get("big")
        assert failed.error.metadata["free_bytes"] == free
        assert failed.error.metadata["needed_bytes"] == needed
        assert_values_everywhere(site, running, dict(failed.error.metadata))

        _mount(site.pool, "remount,size=128m")
        retry = site.v2c("retry", "--spec", str(spec), "--vm", "big")
        assert retry.wait() == 0, retry.err
        client.finalize("big")
        done = client.wait_done("big")

    assert done.id == failed.id
    assert_migrated(site, done)
