"""Which objects and properties a PropertyCollector filter selects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pyVmomi import vmodl
from pyVmomi.VmomiSupport import ManagedObject

from lab.vcenter.collector.objects import Objects, readable
from lab.vcenter.properties.registry import check_path
from lab.vcenter.world.sessions import Session

_PC = vmodl.query.PropertyCollector


@dataclass(frozen=True)
class Selected:
    """One object and the property paths to read from it."""

    reference: ManagedObject
    paths: tuple[str, ...]


class Selector:
    """Walks a filter's object specs and traversals for one session."""

    def __init__(self, objects: Objects, session: Session | None) -> None:
        self._objects = objects
        self._session = session

    def select(self, specs: list[_PC.FilterSpec]) -> list[Selected]:
        """The objects in the order they were found, each once per filter.

        Raises InvalidProperty, InvalidType-like InvalidArgument, ManagedObjectNotFound (unless
        the filter has reportMissingObjectsInResults).
        """
        return [item for spec in specs for item in self._select(spec)]

    def _select(self, spec: _PC.FilterSpec) -> Iterator[Selected]:
        for prop in spec.propSet:
            for path in prop.pathSet:
                check_path(prop.type, path)
        seen: set[ManagedObject] = set()
        paths_of: dict[type, tuple[str, ...] | None] = {}
        for start in spec.objectSet:
            try:
                self._objects.exists(start.obj, self._session)
            except vmodl.fault.ManagedObjectNotFound:
                if spec.reportMissingObjectsInResults:
                    continue
                raise
            for reference in self._walk(start):
                if reference in seen:
                    continue
                seen.add(reference)
                kind = type(reference)
                if kind not in paths_of:
                    paths_of[kind] = _paths(spec, kind)
                paths = paths_of[kind]
                if paths is not None:
                    yield Selected(reference, paths or self._all_paths(reference))

    def _all_paths(self, reference: ManagedObject) -> tuple[str, ...]:
        return tuple(self._objects.names(reference, self._session))

    def _walk(self, start: _PC.ObjectSpec) -> Iterator[ManagedObject]:
        named = {s.name: s for s in _traversals(start.selectSet)}
        if not start.skip:
            yield start.obj
        pending = [(start.obj, tuple(start.selectSet))]
        visited: set[tuple[str, int]] = set()
        while pending:
            reference, selections = pending.pop(0)
            for selection in selections:
                traversal = selection
                if not isinstance(selection, _PC.TraversalSpec):
                    traversal = named.get(selection.name)
                    if traversal is None:
                        raise vmodl.fault.InvalidArgument(
                            invalidProperty="selectSet",
                            msg=f"No traversal is named {selection.name!r}",
                        )
                mark = (str(reference), id(traversal))
                if mark in visited or not issubclass(type(reference), traversal.type):
                    continue
                visited.add(mark)
                for target in self._targets(reference, traversal.path):
                    if not traversal.skip:
                        yield target
                    if traversal.selectSet:
                        pending.append((target, tuple(traversal.selectSet)))

    def _targets(self, reference: ManagedObject, path: str) -> list[ManagedObject]:
        if readable(reference, path, self._session) is not None:
            return []
        value = self._objects.value(reference, path, self._session)
        values = value if isinstance(value, list) else [value]
        return [v for v in values if isinstance(v, ManagedObject)]


def _traversals(selections: list[_PC.SelectionSpec]) -> Iterator[_PC.TraversalSpec]:
    for selection in selections:
        if isinstance(selection, _PC.TraversalSpec):
            yield selection
            yield from _traversals(selection.selectSet)


def _paths(spec: _PC.FilterSpec, kind: type) -> tuple[str, ...] | None:
    """The paths to read from a type: None if no propSet has the type, () for all paths."""
    about = [prop for prop in spec.propSet if issubclass(kind, prop.type)]
    if not about:
        return None
    if any(prop.all for prop in about):
        return ()
    paths = dict.fromkeys(path for prop in about for path in prop.pathSet)
    # An object that is selected without properties is still reported.
    return tuple(paths) or ("",)
