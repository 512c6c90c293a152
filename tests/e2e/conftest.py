"""One lab and one ``v2c serve`` for all tests that need no stack of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.scenario import Tools
from tests.rigs.stack.client import Client, client_of
from tests.rigs.stack.scenario import disk, machine, scenario
from tests.rigs.stack.site import Serving, Site, running_site, serving

# A machine belongs to one test; nothing is migrated twice.
_MACHINES = (
    machine("cancel base", 8, 8),
    machine("cancel delta", 8),
    machine("rollback", 8, 8, nics=2),
    machine("pause", 8),
    machine("marked", 8),
    machine("marked now", 8),
    machine("stubborn", 8, tools=Tools.NOT_INSTALLED),
    machine("manual", 8),
    machine("cbt reset", 8, 8),
    machine("untracked disk", 8, disk(8, ctk_enabled=False), change_tracking=True),
    machine("busy tasks", 8),
    machine("lost snapshot", 16),
    machine("nfc busy", 8, 8),
    machine("broken reads", 8),
    machine("lost answers", 8, 8, nics=2),
    machine("expired", 8),
    machine("map lost", 8, 8),
    machine("by grpcurl", 8),
    machine("by rest", 8, 8, tools=Tools.NOT_RUNNING),
    machine("flipped", 8, 8),
    machine("repaired", 8, 8),
    machine("grown", 8, 8),
    machine("twin", 8),
)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The lab and a config for it."""
    contents = scenario(*_MACHINES, elsewhere=(machine("twin", 8),))
    directory = tmp_path_factory.mktemp("e2e")
    with running_site(directory, contents, migration={"parallel_vms": 20}) as running:
        yield running


@pytest.fixture(scope="session")
def stack(site: Site) -> Iterator[Serving]:
    """``v2c serve`` on it, started for the first time."""
    with serving(site) as running:
        yield running


@pytest.fixture(scope="session")
def client(site: Site, stack: Serving) -> Iterator[Client]:
    """Its orchestrator."""
    with client_of(site) as connected:
        yield connected
