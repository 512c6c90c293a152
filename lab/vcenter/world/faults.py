"""Faults on demand: rules that make chosen calls fail, late or unanswered."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from pyVmomi import VmomiSupport, vim, vmodl
from pyVmomi.VmomiSupport import (
    F_OPTIONAL,
    Enum,
    GetVmodlType,
    GuessWsdlMethod,
    ManagedObject,
)

from lab.vcenter.world.settings import unknown

DROP = "ConnectionDropped"
"""Not a vSphere fault: the connection is closed without an answer."""


class RuleError(ValueError):
    """A rule has an unknown method, fault or option; the message has the nearest valid name."""


class DropConnection(Exception):
    """Raised through the dispatcher to close the connection without an answer."""


@dataclass(frozen=True)
class Rule:
    """Make calls of ``method`` (WSDL name) fail or late.

    An empty ``fault`` means late only. An empty ``vm`` means every VM. ``count`` is the number of
    calls still affected, 0 = until cleared; ``skip`` the number of calls that succeed before. With
    ``after`` the operation takes effect and then fails, as when an answer is lost.
    """

    number: int
    method: str
    fault: str = ""
    vm: str = ""
    count: int = 1
    skip: int = 0
    delay_seconds: float = 0.0
    after: bool = False
    message: str = ""


@dataclass(frozen=True)
class Injected:
    """A matching rule, applied to one call."""

    rule: Rule

    @property
    def delay_seconds(self) -> float:
        """How long to wait first."""
        return self.rule.delay_seconds

    @property
    def after(self) -> bool:
        """Whether the effect happens before the fault."""
        return self.rule.after

    def build(self, this: ManagedObject) -> Exception | None:
        """The fault to raise, or None if the call is only late."""
        if not self.rule.fault:
            return None
        if self.rule.fault == DROP:
            return DropConnection()
        kind: Any = _fault_types()[self.rule.fault]
        fault = kind(msg=self.rule.message or f"{self.rule.fault} (injected)")
        for field in kind._GetPropertyList():
            if not field.flags & F_OPTIONAL and not getattr(fault, field.name):
                value = _sample(field.type, this)
                if value is not None:
                    setattr(fault, field.name, value)
        if isinstance(fault, vim.fault.NoPermission):
            fault.object = this
            fault.privilegeId = method_privilege(self.rule.method) or "System.Read"
        built: Exception = fault
        return built


class Injector:
    """The active rules. Thread-safe."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def add(self, method: str, fault: str = "", **options: Any) -> Rule:
        """Add a rule. Raises RuleError for unknown methods, faults and options out of range."""
        method = check_method(method)
        if fault and fault != DROP and fault not in _fault_types():
            raise RuleError(unknown("fault", fault, [DROP, *_fault_types()]))
        if not fault and not options.get("delay_seconds"):
            raise RuleError("a rule needs a fault, delay_seconds, or both")
        if fault == DROP and method.endswith("_Task"):
            # The task runs even if the client does not receive the answer.
            options["after"] = True
        with self._lock:
            rule = Rule(next(self._numbers), method, fault, **options)
            if rule.count < 0 or rule.skip < 0 or rule.delay_seconds < 0:
                raise RuleError("count, skip and delay_seconds cannot be negative")
            self._rules.append(rule)
            return rule

    def take(
        self, method: str, vm: str, accept: Callable[[Rule], bool] = lambda _rule: True
    ) -> Injected | None:
        """Apply and count down the first rule that matches and is accepted.

        None if there is none.
        """
        with self._lock:
            for index, rule in enumerate(self._rules):
                if rule.method != method or rule.vm not in ("", vm) or not accept(rule):
                    continue
                if rule.skip:
                    self._rules[index] = replace(rule, skip=rule.skip - 1)
                    continue
                if rule.count == 1:
                    del self._rules[index]
                elif rule.count > 1:
                    self._rules[index] = replace(rule, count=rule.count - 1)
                return Injected(rule)
        return None

    def clear(self, number: int | None = None) -> int:
        """Remove one rule or all; returns how many. Raises RuleError for an unknown number."""
        with self._lock:
            kept = [r for r in self._rules if number is not None and r.number != number]
            gone = len(self._rules) - len(kept)
            if number is not None and not gone:
                raise RuleError(f"no rule has the number {number}")
            self._rules = kept
            return gone

    def all(self) -> list[Rule]:
        """The active rules, oldest first."""
        with self._lock:
            return list(self._rules)


def check_method(name: str) -> str:
    """The WSDL name for a method's WSDL or short name. Raises RuleError."""
    candidates = _method_names()
    if name in candidates.values():
        return name
    if name in candidates:
        return candidates[name]
    raise RuleError(unknown("method", name, [*candidates, *candidates.values()]))


def method_privilege(method: str) -> str | None:
    """The method's privilege, from pyVmomi's tables."""
    try:
        privilege: str | None = GuessWsdlMethod(method).info.privId
    except KeyError:
        return None
    return privilege


@lru_cache
def _method_names() -> dict[str, str]:
    """The methods that can fail, by short name (CreateSnapshot) and WSDL name."""
    owners: tuple[Any, ...] = (
        vim.VirtualMachine,
        vim.vm.Snapshot,
        vim.SessionManager,
        vim.ServiceInstance,
        vim.SearchIndex,
        vim.view.ViewManager,
        vim.view.ContainerView,
        vmodl.query.PropertyCollector,
    )
    names = {}
    for owner in owners:
        prefix = "Snapshot" if owner is vim.vm.Snapshot else ""
        for info in owner._GetMethodList():
            names[info.wsdlName.removesuffix("_Task")] = info.wsdlName
            names.setdefault(info.name + prefix, info.wsdlName)
    return {**names, "Fetch": "Fetch"}


@lru_cache
def _fault_types() -> dict[str, type]:
    """Faults by their short names, e.g. TaskInProgress."""
    # pyVmomi has no public list of its types; its LazyModule reads this table, too.
    prefixes = ("vim.fault.", "vmodl.fault.", "vmodl.query.")
    found = {}
    for name in VmomiSupport._dataDefMap:
        if name.startswith(prefixes) and name.count(".") == 2:
            kind = GetVmodlType(name)
            if issubclass(kind, vmodl.MethodFault):
                found[name.rpartition(".")[2]] = kind
    return found


def _sample(kind: type, this: ManagedObject) -> object:
    """A value that satisfies a required property of a fault."""
    if issubclass(kind, ManagedObject):
        return this if isinstance(this, kind) else kind("lab")
    if issubclass(kind, Enum):
        return kind.values[0]  # type: ignore[attr-defined]
    if kind is datetime:
        return datetime.now(UTC)
    if issubclass(kind, str):
        return "lab"
    return None
