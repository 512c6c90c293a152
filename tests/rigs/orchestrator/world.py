"""What the agents in memory share: rules that were broken, calls made, faults to come.

A disk is a dict from block number to content; a block that is missing holds zeroes.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from services.kit.failure import Code, Failure, ReportedError, ServiceError

BLOCK = 64 * 1024
Blocks = dict[int, int]


class Crash(BaseException):
    """The process dies here; nothing in the product may catch it."""


def reported(
    reason: str, message: str = "", *, retryable: bool = False, **metadata: str
) -> Failure:
    """A failure as an agent reports it."""
    return Failure(
        reason,
        message or reason.lower().replace("_", " "),
        Code.ABORTED,
        retryable=retryable,
        metadata=metadata,
    )


def failure(
    reason: str, *, retryable: bool = False, message: str = "", **metadata: str
) -> ServiceError:
    """An agent's error."""
    return ReportedError(reported(reason, message, retryable=retryable, **metadata))


@dataclass
class World:
    """What the agents share: the seed of what guests write, rules that were broken, calls made."""

    seed: int = 1
    broken: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    # Errors to raise instead of a call, by "agent.method", first come first served.
    faults: dict[str, list[BaseException]] = field(default_factory=dict)
    # Called with "agent.method" and its arguments before and after each call.
    before: list[Callable[[str, tuple[Any, ...]], None]] = field(default_factory=list)
    after: list[Callable[[str, tuple[Any, ...]], None]] = field(default_factory=list)

    # Ticks of several migrations call from threads of their own.
    lock: threading.RLock = field(default_factory=threading.RLock)

    def rule(self, holds: bool, text: str) -> None:
        """Record `text` as broken unless the rule holds."""
        if not holds:
            self.broken.append(text)

    def count(self, call: str) -> int:
        """How often "agent.method" was called."""
        return self.calls.count(call)


class Recorded:
    """Wraps an agent: its calls are recorded, can be made to fail, and are crash points."""

    def __init__(self, name: str, agent: object, world: World) -> None:
        self._name, self._agent, self._world = name, agent, world

    def __getattr__(self, method: str) -> Any:
        name, real, world = f"{self._name}.{method}", getattr(self._agent, method), self._world

        def call(*args: Any, **kwargs: Any) -> Any:
            with world.lock:
                return run(*args, **kwargs)

        def run(*args: Any, **kwargs: Any) -> Any:
            world.calls.append(name)
            for hook in world.before:
                hook(name, args)
            planned = world.faults.get(name)
            if planned:
                raise planned.pop(0)
            result = real(*args, **kwargs)
            for hook in world.after:
                hook(name, args)
            return result

        return call
