"""The PropertyCollector's calls: retrieval with paging, filters, waiting for updates, Fetch."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import escape

from pyVmomi import vmodl
from pyVmomi.VmomiSupport import GetVmodlType, Object

from lab.vcenter.collector.objects import (
    Objects,
    as_declared,
    owned,
    readable,
)
from lab.vcenter.collector.selection import Selected, Selector
from lab.vcenter.methods.calls import Call, Methods
from lab.vcenter.soap import RawXml, serialize, serialize_any
from lab.vcenter.world.sessions import not_authenticated

_PC = vmodl.query.PropertyCollector
_LONGEST_WAIT_SECONDS = 1800


@dataclass
class _Page:
    rest: list[Selected]
    size: int


@dataclass
class _Filter:
    specs: list[_PC.FilterSpec]
    known: dict[str, dict[str, str]] = field(default_factory=dict)
    """The state reported to the client: XML by property by object."""


def collector_methods(objects: Objects) -> Methods:
    """Handlers of the PropertyCollector over ``objects``."""
    methods = Methods()
    handler = _Collector(objects)
    methods.handle("RetrievePropertiesEx")(handler.retrieve_ex)
    methods.handle("RetrieveProperties")(handler.retrieve)
    methods.handle("ContinueRetrievePropertiesEx")(handler.continue_retrieve)
    methods.handle("CancelRetrievePropertiesEx")(handler.cancel_retrieve)
    methods.handle("CreateFilter")(handler.create_filter)
    methods.handle("DestroyPropertyFilter")(handler.destroy_filter)
    methods.handle("WaitForUpdatesEx", "WaitForUpdates", "CheckForUpdates")(handler.wait)
    methods.handle("CancelWaitForUpdates")(handler.cancel_wait)
    methods.handle("CreatePropertyCollector")(handler.create_collector)
    methods.handle("DestroyPropertyCollector")(handler.destroy_collector)
    methods.handle("Fetch")(handler.fetch)
    return methods


class _Collector:
    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._versions = itertools.count(1)

    # -- retrieval

    def retrieve_ex(self, call: Call) -> RawXml:
        with call.world.changed:
            selected = Selector(self._objects, call.session).select(call.params.specSet)
        size = call.world.settings.max_page_objects
        if call.params.options is not None and call.params.options.maxObjects:
            size = min(size, call.params.options.maxObjects)
        return self._page(call, selected, size)

    def retrieve(self, call: Call) -> RawXml:
        """The older call, which has no pages."""
        with call.world.changed:
            selected = Selector(self._objects, call.session).select(call.params.specSet)
            return RawXml("".join(self._content(call, item, "returnval") for item in selected))

    def continue_retrieve(self, call: Call) -> RawXml:
        page = self._take_page(call)
        return self._page(call, page.rest, page.size)

    def cancel_retrieve(self, call: Call) -> None:
        self._take_page(call)

    def _take_page(self, call: Call) -> _Page:
        page = call.login.objects.pop(call.params.token, None)
        if not isinstance(page, _Page):
            raise vmodl.fault.InvalidArgument(invalidProperty="token", msg="Unknown token")
        return page

    def _page(self, call: Call, selected: list[Selected], size: int) -> RawXml:
        if not selected:
            return RawXml("")
        token = ""
        rest = selected[size:]
        # Without a session the remaining objects cannot be kept; missingSet has the reason.
        if rest and call.session is not None:
            name = call.login.name("page")
            call.login.objects[name] = _Page(rest, size)
            token = f"<token>{name}</token>"
        with call.world.changed:
            contents = "".join(self._content(call, i, "objects") for i in selected[:size])
        return RawXml(f"<returnval>{token}{contents}</returnval>")

    def _content(self, call: Call, item: Selected, tag: str) -> str:
        try:
            values, missing = self._properties(call, item)
        except vmodl.fault.ManagedObjectNotFound:
            return ""  # deleted between two pages
        obj = _reference_xml("obj", item.reference)
        return f"<{tag}>{obj}{''.join(values.values())}{''.join(missing)}</{tag}>"

    def _properties(self, call: Call, item: Selected) -> tuple[dict[str, str], list[str]]:
        values: dict[str, str] = {}
        missing: list[str] = []
        for path in filter(None, item.paths):
            fault = readable(item.reference, path, call.session)
            if fault is None:
                text = self._objects.xml(item.reference, path, call.session, call.version)
                if text:
                    values[path] = text
            else:
                entry = _PC.MissingProperty(path=path, fault=fault)
                missing.append(serialize(entry, _MISSING, call.version))
        return values, missing

    # -- single properties

    def fetch(self, call: Call) -> RawXml:
        """The call that pyVmomi makes for ``object.property``."""
        path = call.params.prop
        fault = readable_or_invalid(call, path)
        if fault is not None:
            raise fault
        with call.world.changed:
            value = self._objects.value(call.this, path, call.session)
            if value is None:
                return RawXml("")
            typed = as_declared(type(call.this), path, value)
            return RawXml(serialize_any(typed, "returnval", call.version))

    # -- updates

    def create_filter(self, call: Call) -> _PC.Filter:
        with call.world.changed:
            Selector(self._objects, call.session).select([call.params.spec])
        name = call.login.name("filter")
        call.login.objects[name] = _Filter([call.params.spec])
        return _PC.Filter(name)

    def destroy_filter(self, call: Call) -> None:
        owned(call.this, call.session)
        del call.login.objects[call.this._moId]

    def create_collector(self, call: Call) -> _PC:
        return _PC(call.login.name("collector"))

    def destroy_collector(self, _call: Call) -> None:
        """Does nothing: in the simulator filters belong to the session, not to a collector."""

    def cancel_wait(self, call: Call) -> None:
        call.world.notify()

    def wait(self, call: Call) -> RawXml | None:
        """Block until a filtered property differs from its value last sent to this session."""
        world, session = call.world, call.login
        seconds = _wait_seconds(call)
        if not call.params.version:
            for item in session.objects.values():
                if isinstance(item, _Filter):
                    item.known.clear()
        elif not call.params.version.isdigit():
            raise vmodl.query.InvalidCollectorVersion(msg="Unknown version")
        deadline = world.clock() + seconds
        with world.changed:
            while True:
                updates = self._updates(call)
                if updates:
                    version = next(self._versions)
                    return RawXml(f"<returnval><version>{version}</version>{updates}</returnval>")
                if session not in call.sessions.all():
                    raise not_authenticated(call.this)
                left = deadline - world.clock()
                if left <= 0:
                    return None
                # Waits are short, because the end of a session does not notify this condition.
                world.changed.wait(min(left, 1.0))

    def _updates(self, call: Call) -> str:
        result = ""
        for name, item in list(call.login.objects.items()):
            if isinstance(item, _Filter):
                changes = self._filter_updates(call, item)
                if changes:
                    filter_xml = _reference_xml("filter", _PC.Filter(name))
                    result += f"<filterSet>{filter_xml}{changes}</filterSet>"
        return result

    def _filter_updates(self, call: Call, item: _Filter) -> str:
        result = ""
        present: set[str] = set()
        try:
            selected = Selector(self._objects, call.session).select(item.specs)
        except vmodl.fault.ManagedObjectNotFound:
            selected = []
        for one in selected:
            name = f"{type(one.reference).__name__}:{one.reference._moId}"
            present.add(name)
            values, _missing = self._properties(call, one)
            known = item.known.get(name)
            result += _object_update(one, known, values)
            item.known[name] = values
        for name in item.known.keys() - present:
            kind, _, moref = name.partition(":")
            left = _reference_xml("obj", GetVmodlType(kind)(moref))
            result += f"<objectSet><kind>leave</kind>{left}</objectSet>"
            del item.known[name]
        return result


_MISSING = Object(
    name="missingSet", type=_PC.MissingProperty, version="vmodl.version.version0", flags=0
)


def readable_or_invalid(call: Call, path: str) -> Exception | None:
    """Why the property may not be read. Raises InvalidProperty for an unknown one."""
    try:
        return readable(call.this, path, call.session)
    except AttributeError as error:
        raise vmodl.query.InvalidProperty(name=path, msg=f"No property {path!r}") from error


def _wait_seconds(call: Call) -> float:
    if call.method == "CheckForUpdates":
        return 0
    options = getattr(call.params, "options", None)
    if options is not None and options.maxWaitSeconds is not None:
        return float(min(options.maxWaitSeconds, _LONGEST_WAIT_SECONDS))
    return _LONGEST_WAIT_SECONDS


def _object_update(item: Selected, known: dict[str, str] | None, values: dict[str, str]) -> str:
    changed = {p: text for p, text in values.items() if known is None or known.get(p) != text}
    gone = [path for path in known or {} if path not in values]
    if known is not None and not changed and not gone:
        return ""
    changes = "".join(_change(path, text) for path, text in changed.items())
    changes += "".join(f"<changeSet><name>{p}</name><op>remove</op></changeSet>" for p in gone)
    kind = "enter" if known is None else "modify"
    reference = _reference_xml("obj", item.reference)
    return f"<objectSet><kind>{kind}</kind>{reference}{changes}</objectSet>"


def _change(path: str, prop_set: str) -> str:
    body = prop_set.removeprefix(f"<propSet><name>{path}</name>").removesuffix("</propSet>")
    return f"<changeSet><name>{path}</name><op>assign</op>{body}</changeSet>"


def _reference_xml(tag: str, reference: Any) -> str:
    name = type(reference)._wsdlName
    return f'<{tag} type="{name}">{escape(reference._moId)}</{tag}>'
