"""A registry of functions that build properties, so that only those that are read are built."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pyVmomi import vmodl
from pyVmomi.VmomiSupport import DataObject

if TYPE_CHECKING:
    from lab.vcenter.world.world import World

T = TypeVar("T")
Builder = Callable[["World", T], Any]


class Properties(Generic[T]):
    """The builders of one managed object type's properties, by property path.

    The value of a path without a builder is taken from that of the longest prefix with one.
    """

    def __init__(self) -> None:
        self._builders: dict[str, Builder[T]] = {}

    def of(self, *paths: str) -> Callable[[Builder[T]], Builder[T]]:
        """Decorator: the function builds these paths."""

        def register(builder: Builder[T]) -> Builder[T]:
            for path in paths:
                self._builders[path] = builder
            return builder

        return register

    def include(self, other: Properties[T]) -> None:
        """Add the builders of another registry."""
        self._builders.update(other._builders)

    def value(self, world: World, item: T, path: str) -> object:
        """The property's value; None if it is unset or the simulator has none."""
        head, rest = path, ""
        while head not in self._builders:
            head, dot, tail = head.rpartition(".")
            if not dot:
                return None
            rest = f"{tail}.{rest}" if rest else tail
        value: object = self._builders[head](world, item)
        for name in filter(None, rest.split(".")):
            value = getattr(value, name, None)
        return value

    def names(self) -> Iterator[str]:
        """Top-level properties that have a builder."""
        return (path for path in self._builders if "." not in path)


@cache
def check_path(kind: Any, path: str) -> None:
    """Raises vmodl.query.InvalidProperty unless the type has that property path."""
    current: Any = kind
    for name in path.split("."):
        try:
            current = current._GetPropertyInfo(name).type
        except AttributeError:
            raise vmodl.query.InvalidProperty(
                name=path, msg=f"{kind.__name__} has no property {path!r}"
            ) from None
        if not issubclass(current, DataObject):
            # A scalar, a list or a reference has no properties below it.
            current = _Leaf


class _Leaf:
    @staticmethod
    def _GetPropertyInfo(name: str) -> None:
        raise AttributeError(name)


@cache
def property_privilege(kind: Any, path: str) -> str:
    """The privilege needed to read the property, from pyVmomi's tables."""
    privilege: str | None = kind._GetPropertyInfo(path.split(".")[0]).privId
    return privilege or "System.View"
