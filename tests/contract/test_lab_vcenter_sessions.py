"""Logging in to the simulated vCenter, losing the session, and being refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyVmomi import vim, vmodl

from lab.scenario import DEFAULT_USERS
from tests.rigs.lab.vcenter import PC, Simulator, find, one_datacenter, running, view_filter, vm


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    directory: Path = tmp_path_factory.mktemp("lab")
    with running(directory, one_datacenter(vm("one"))) as simulator:
        yield simulator


def test_the_service_reports_its_product_and_version(simulator: Simulator) -> None:
    with simulator.client() as instance:
        about = instance.content.about
        assert about.apiType == "VirtualCenter"
        assert about.apiVersion.startswith("8.0.")
        assert about.instanceUuid
        assert instance._stub.version == "vim.version.v8_0_3_0"


@pytest.mark.parametrize("password", ["", "wrong", "lab"])
def test_a_wrong_password_is_invalid_login(simulator: Simulator, password: str) -> None:
    with (
        simulator.anonymous() as instance,
        pytest.raises(vim.fault.InvalidLogin, match="incorrect user name or password"),
    ):
        instance.content.sessionManager.Login(DEFAULT_USERS[0].name, password)


def test_the_session_manager_knows_the_session(simulator: Simulator) -> None:
    with simulator.client() as instance:
        manager = instance.content.sessionManager
        session = manager.currentSession
        assert session.userName == DEFAULT_USERS[0].name
        assert manager.SessionIsActive(session.key, session.userName)
        assert not manager.SessionIsActive("no-such-key", session.userName)


def test_after_logout_nothing_but_the_service_content_is_readable(simulator: Simulator) -> None:
    with simulator.client() as instance:
        machine = find(instance, "one")
        instance.content.sessionManager.Logout()
        assert instance.content.sessionManager.currentSession is None
        with pytest.raises(vim.fault.NotAuthenticated):
            machine.PowerOffVM_Task()
        with pytest.raises(vim.fault.NotAuthenticated):
            print(machine.name)


def test_an_expired_session_shows_in_the_missing_set(simulator: Simulator) -> None:
    with simulator.client() as instance:
        machine = find(instance, "one")
        assert simulator.control.call("expire_sessions")["expired"] >= 1
        spec = PC.FilterSpec(
            objectSet=[PC.ObjectSpec(obj=machine)],
            propSet=[PC.PropertySpec(type=vim.VirtualMachine, pathSet=["name", "runtime"])],
        )
        result = instance.content.propertyCollector.RetrievePropertiesEx(
            [spec], PC.RetrieveOptions()
        )
        (item,) = result.objects
        assert not item.propSet
        assert {missing.path for missing in item.missingSet} == {"name", "runtime"}
        assert all(isinstance(m.fault, vim.fault.NotAuthenticated) for m in item.missingSet)


def test_views_and_pages_end_with_their_session(simulator: Simulator) -> None:
    user = DEFAULT_USERS[0]
    with simulator.client() as instance:
        content = instance.content
        view = content.viewManager.CreateContainerView(
            content.rootFolder, [vim.VirtualMachine], True
        )
        spec = view_filter(view, ["name"])
        simulator.control.call("expire_sessions")
        with pytest.raises(vim.fault.NotAuthenticated):
            content.propertyCollector.RetrievePropertiesEx([spec], PC.RetrieveOptions())
        content.sessionManager.Login(user.name, user.password)
        with pytest.raises(vmodl.fault.ManagedObjectNotFound):
            content.propertyCollector.RetrievePropertiesEx([spec], PC.RetrieveOptions())


def test_an_idle_session_expires(simulator: Simulator) -> None:
    with simulator.client() as instance:
        simulator.control.call("set", session_idle_seconds=0)
        try:
            with pytest.raises(vim.fault.NotAuthenticated):
                instance.content.viewManager.CreateListView([])
        finally:
            simulator.control.call("set", session_idle_seconds=1800)


def test_a_read_only_user_sees_everything_and_changes_nothing(simulator: Simulator) -> None:
    with simulator.client(DEFAULT_USERS[1]) as instance:
        machine = find(instance, "one")
        assert machine.config.hardware.memoryMB == 2048
        with pytest.raises(vim.fault.NoPermission) as refused:
            machine.CreateSnapshot_Task("s", "", False, False)
        assert refused.value.privilegeId == "VirtualMachine.State.CreateSnapshot"
        manager = instance.content.authorizationManager
        (answer,) = manager.HasPrivilegeOnEntities(
            [machine],
            instance.content.sessionManager.currentSession.key,
            ["System.Read", "VirtualMachine.Interact.PowerOff"],
        )
        granted = {p.privId: p.isGranted for p in answer.privAvailability}
        assert granted == {"System.Read": True, "VirtualMachine.Interact.PowerOff": False}


def test_unsupported_methods_are_refused_at_once(simulator: Simulator) -> None:
    with simulator.client() as instance:
        machine = find(instance, "one")
        with pytest.raises(vmodl.fault.NotSupported, match="MarkAsTemplate"):
            machine.MarkAsTemplate()
