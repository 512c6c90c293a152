"""ServiceInstance, SessionManager and AuthorizationManager."""

from __future__ import annotations

from pyVmomi import vim, vmodl
from pyVmomi.VmomiSupport import ManagedObject

from lab.vcenter.methods.calls import Call, Methods
from lab.vcenter.properties.registry import Properties
from lab.vcenter.world.sessions import Session
from lab.vcenter.world.vm_state import now
from lab.vcenter.world.world import World, reference

METHODS = Methods()
SERVICE: Properties[vim.ServiceInstanceContent] = Properties()
SESSION_MANAGER: Properties[Session | None] = Properties()

VERSION = "8.0.3"
API_VERSION = "8.0.3.0"
BUILD = "24022515"


def about(world: World) -> vim.AboutInfo:
    """The vCenter's AboutInfo."""
    return vim.AboutInfo(
        name="VMware vCenter Server",
        fullName=f"VMware vCenter Server {VERSION} build-{BUILD} (simulated)",
        vendor="VMware, Inc.",
        version=VERSION,
        build=BUILD,
        localeVersion="INTL",
        localeBuild="000",
        osType="linux-x64",
        productLineId="vpx",
        apiType="VirtualCenter",
        apiVersion=API_VERSION,
        instanceUuid=world.inventory.instance_uuid,
        licenseProductName="VMware VirtualCenter Server",
        licenseProductVersion="8.0",
    )


def service_content(world: World) -> vim.ServiceInstanceContent:
    """The vCenter's root objects."""
    return vim.ServiceInstanceContent(
        rootFolder=reference(world.inventory.root),
        propertyCollector=vmodl.query.PropertyCollector("propertyCollector"),
        viewManager=vim.view.ViewManager("ViewManager"),
        about=about(world),
        sessionManager=vim.SessionManager("SessionManager"),
        authorizationManager=vim.AuthorizationManager("AuthorizationManager"),
        searchIndex=vim.SearchIndex("SearchIndex"),
        taskManager=vim.TaskManager("TaskManager"),
    )


@SERVICE.of("content")
def _content(_world: World, content: vim.ServiceInstanceContent) -> vim.ServiceInstanceContent:
    return content


@SERVICE.of("serverClock")
def _clock(_world: World, _content: vim.ServiceInstanceContent) -> object:
    return now()


@SESSION_MANAGER.of("currentSession")
def _current_session(_world: World, session: Session | None) -> vim.UserSession | None:
    return session.as_vim() if session else None


@SESSION_MANAGER.of("supportedLocaleList", "messageLocaleList")
def _locales(_world: World, _session: Session | None) -> list[str]:
    return ["en"]


@SESSION_MANAGER.of("defaultLocale")
def _locale(_world: World, _session: Session | None) -> str:
    return "en"


@METHODS.handle("RetrieveServiceContent")
def _retrieve_content(call: Call) -> vim.ServiceInstanceContent:
    return service_content(call.world)


@METHODS.handle("CurrentTime")
def _current_time(_call: Call) -> object:
    return now()


@METHODS.handle("Login")
def _login(call: Call) -> vim.UserSession:
    session = call.sessions.login(
        call.params.userName, call.params.password, call.address, call.user_agent
    )
    call.new_cookie = session.key
    return session.as_vim()


@METHODS.handle("Logout")
def _logout(call: Call) -> None:
    call.sessions.end(call.login.key)


@METHODS.handle("SessionIsActive")
def _session_is_active(call: Call) -> bool:
    return any(
        session.key == call.params.sessionID and session.user.name == call.params.userName
        for session in call.sessions.all()
    )


@METHODS.handle("TerminateSession")
def _terminate(call: Call) -> None:
    for key in call.params.sessionId:
        if not call.sessions.end(key):
            raise vim.fault.NotFound(msg=f"No session {key}")


@METHODS.handle("HasPrivilegeOnEntities")
def _has_privileges(call: Call) -> list[vim.AuthorizationManager.EntityPrivilege]:
    session = next((s for s in call.sessions.all() if s.key == call.params.sessionId), None)
    if session is None:
        raise vmodl.fault.InvalidArgument(invalidProperty="sessionId", msg="No such session")
    return [_entity_privilege(entity, call, session) for entity in call.params.entity]


@METHODS.handle("HasUserPrivilegeOnEntities")
def _has_user_privileges(call: Call) -> list[vim.AuthorizationManager.EntityPrivilege]:
    wanted = call.params.userName.lower()
    session = next((s for s in call.sessions.all() if s.user.name.lower() == wanted), None)
    if session is None:
        raise vmodl.fault.InvalidArgument(invalidProperty="userName", msg="No such user is known")
    return [_entity_privilege(entity, call, session) for entity in call.params.entities]


def _entity_privilege(
    entity: ManagedObject, call: Call, session: Session
) -> vim.AuthorizationManager.EntityPrivilege:
    call.world.entity(entity)
    return vim.AuthorizationManager.EntityPrivilege(
        entity=entity,
        privAvailability=[
            vim.AuthorizationManager.PrivilegeAvailability(
                privId=privilege, isGranted=session.allows(privilege)
            )
            for privilege in call.params.privId
        ],
    )
