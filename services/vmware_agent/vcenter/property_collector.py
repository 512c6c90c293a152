"""Reads properties of many objects with few calls, by means of paged property collector calls."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pyVmomi import vim, vmodl
from pyVmomi.VmomiSupport import ManagedObject

from services.vmware_agent.vcenter.session import Connection
from services.vmware_agent.vcenter.vmomi import moref

PropertyCollector = vmodl.query.PropertyCollector

# Objects per page. A page of full VM configurations is then some 10 MB of XML.
PAGE_OBJECTS = 500


@dataclass(frozen=True, slots=True)
class Found:
    """One object's properties; those without a value are absent.

    `kind` is the object's pyVmomi class, because one call may return several kinds.
    """

    moref: str
    kind: type[ManagedObject]
    properties: Mapping[str, object]


def read_objects(
    connection: Connection, objects: Sequence[ManagedObject], paths: Sequence[str]
) -> list[Found]:
    """The properties `paths` of objects of one kind, read with one call per page.

    Objects that no longer exist are left out. Raises NotAuthenticated also if the session expired
    between two pages, which vCenter does not report as a fault (see `_check_missing`).
    """
    remaining = list(objects)
    while remaining:
        specification = PropertyCollector.FilterSpec(
            propSet=[_property_spec(type(remaining[0]), paths)],
            objectSet=[PropertyCollector.ObjectSpec(obj=one) for one in remaining],
        )
        try:
            return list(_retrieve(connection, specification))
        except vmodl.fault.ManagedObjectNotFound as fault:
            # The call fails as a whole if one object is missing: repeat it without that object.
            gone = None if fault.obj is None else moref(fault.obj)
            kept = [one for one in remaining if moref(one) != gone]
            if len(kept) == len(remaining):
                raise
            remaining = kept
    return []


def read_everything(
    connection: Connection, paths: Mapping[type[ManagedObject], Sequence[str]]
) -> list[Found]:
    """The properties of all objects of these kinds below the root folder, at any depth."""
    content = connection.content
    if content.viewManager is None:
        raise vmodl.fault.NotSupported(msg="vCenter has no view manager")
    view = content.viewManager.CreateContainerView(
        container=content.rootFolder, type=list(paths), recursive=True
    )
    try:
        specification = PropertyCollector.FilterSpec(
            propSet=[_property_spec(kind, names) for kind, names in paths.items()],
            objectSet=[
                PropertyCollector.ObjectSpec(
                    obj=view,
                    skip=True,
                    selectSet=[
                        PropertyCollector.TraversalSpec(
                            name="view", type=vim.view.ContainerView, path="view", skip=False
                        )
                    ],
                )
            ],
        )
        return list(_retrieve(connection, specification))
    finally:
        # The view ends with the session anyway; an error here must not replace the read's error.
        with contextlib.suppress(vmodl.MethodFault, OSError):
            view.DestroyView()


def _property_spec(
    kind: type[ManagedObject], paths: Sequence[str]
) -> vmodl.query.PropertyCollector.PropertySpec:
    return PropertyCollector.PropertySpec(type=kind, all=False, pathSet=list(paths))


def _retrieve(
    connection: Connection, specification: vmodl.query.PropertyCollector.FilterSpec
) -> Iterator[Found]:
    collector = connection.content.propertyCollector
    page = collector.RetrievePropertiesEx(
        specSet=[specification],
        options=PropertyCollector.RetrieveOptions(maxObjects=PAGE_OBJECTS),
    )
    while page is not None:
        for found in page.objects:
            _check_missing(found)
            yield Found(
                moref=moref(found.obj),
                kind=type(found.obj),
                properties={part.name: part.val for part in found.propSet},
            )
        if not page.token:
            return
        page = collector.ContinueRetrievePropertiesEx(token=page.token)


def _check_missing(found: vmodl.query.PropertyCollector.ObjectContent) -> None:
    """Raise NotAuthenticated if a property is missing for that reason.

    If a session expires between two pages, vCenter sends objects whose properties are all missing,
    each with NotAuthenticated (seen by several backup products). A property that may not be read
    (NoPermission) or does not apply is absent without an error.
    """
    for missing in found.missingSet or []:
        # NotAuthenticated is a subclass of NoPermission.
        if isinstance(missing.fault, vim.fault.NotAuthenticated):
            raise missing.fault
