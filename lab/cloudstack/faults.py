"""Faults on demand: which command fails, in which way, and how often."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, field, replace
from typing import Final, Literal, TypeAlias, get_args

FaultKind: TypeAlias = Literal[
    "error",  # the submit is refused with `code` and `text` under <cmd>response
    "http",  # a proxy in front answers `code` with a page that is no JSON
    "drop_before",  # the connection breaks before the command runs
    "drop_after",  # the command runs, its answer is lost
    "delay",  # the answer comes `seconds` late
    "job_fail",  # the job fails with `code` and `text` before it did anything
    "job_fail_after",  # the job does its work and fails with `code` and `text`
    "job_hang",  # the job stays pending until a restart
    "job_delay",  # the job takes `seconds` more
    "no_placement",  # importVm finds no placement and leaves the VM behind
    "no_free_ip",  # importVm finds no free address and leaves VM and volume behind
]
_KINDS: Final = frozenset(get_args(FaultKind))


@dataclass(frozen=True)
class Fault:
    """One fault; ``times`` is the number of calls it still affects, None for all."""

    id: int
    command: str
    kind: FaultKind
    code: int = 530
    text: str = "Internal error of this server, on demand"
    seconds: float = 0.0
    times: int | None = 1
    skip: int = 0


@dataclass
class FaultTable:
    """The active faults, in the order in which they were set."""

    _faults: list[Fault] = field(default_factory=list)
    _last_id: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(
        self,
        command: str,
        kind: str,
        *,
        code: int = 530,
        text: str = Fault.text,
        seconds: float = 0.0,
        times: int | None = 1,
        skip: int = 0,
    ) -> Fault:
        """Set a fault for ``command`` (``*`` for all); the first ``skip`` calls succeed.

        Raises:
            ValueError: there is no such kind.
        """
        if kind not in _KINDS:
            raise ValueError(f"no fault {kind!r}; there are {', '.join(sorted(_KINDS))}")
        with self._lock:
            self._last_id += 1
            fault = Fault(
                self._last_id,
                command.lower(),
                kind,  # type: ignore[arg-type]  # checked above
                code,
                text,
                seconds,
                times,
                skip,
            )
            self._faults.append(fault)
        return fault

    def take(self, command: str, *kinds: FaultKind) -> Fault | None:
        """The first fault of ``kinds`` for this call of ``command``; counts it down."""
        with self._lock:
            for index, fault in enumerate(self._faults):
                if fault.kind not in kinds or fault.command not in ("*", command.lower()):
                    continue
                if fault.skip:
                    self._faults[index] = replace(fault, skip=fault.skip - 1)
                    continue
                if fault.times is not None:
                    left = fault.times - 1
                    if left <= 0:
                        del self._faults[index]
                    else:
                        self._faults[index] = replace(fault, times=left)
                return fault
        return None

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._faults.clear()

    def listing(self) -> list[dict[str, object]]:
        """The active faults, as JSON objects."""
        with self._lock:
            return [asdict(fault) for fault in self._faults]
