"""libvixDiskLib: finding, loading and starting it, its errors, and asynchronous reads."""

from __future__ import annotations

import ctypes
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from services.disk_agent.vddk.abi import (
    API_MAJOR,
    API_MINOR,
    COMPLETION,
    LOG_FUNCTION,
    OPTIONAL,
    SIGNATURES,
    VIX_ASYNC,
)

SONAMES = tuple(f"libvixDiskLib.so.{version}" for version in (9, 8, 7, 6))


Sink = Callable[[str], None]
"""A function that is given a line of text."""


class VddkError(Exception):
    """A failure with a message of one line for the operator.

    If a function of the library failed, ``function`` is its name and ``number`` the low 16 bits of
    the VixError that it returned.
    """

    # nbdkit prints the exception's qualified name; with this it has no package in front.
    __module__ = "builtins"

    def __init__(self, message: str, *, function: str = "", number: int | None = None) -> None:
        super().__init__(one_line(message))
        self.function = function
        self.number = number


class Library:
    """libvixDiskLib, loaded; ``function["Open"](...)`` calls VixDiskLib_Open."""

    def __init__(self, path: Path, *, log: Sink, warn: Sink) -> None:
        """``log`` and ``warn`` get the library's own messages, from any thread.

        Raises VddkError.
        """
        self.path = path
        self.log = log
        try:
            library = ctypes.CDLL(str(path))
        except OSError as error:
            raise VddkError(
                f"cannot load {path}: {error} (nbdkit needs LD_LIBRARY_PATH={path.parent})"
            ) from None
        self.function: dict[str, Callable[..., Any]] = {}
        for name, (result, arguments) in SIGNATURES.items():
            try:
                function = library[f"VixDiskLib_{name}"]
            except AttributeError:
                if name not in OPTIONAL:
                    raise VddkError(f"{path} has no VixDiskLib_{name}") from None
                continue
            function.restype, function.argtypes = result, arguments
            self.function[name] = function
        self._completion = COMPLETION(self._completed)
        self._waiting: dict[int, SimpleQueue[int]] = {}
        self._tickets = itertools.count(1)
        self._log = LOG_FUNCTION(_formatted(log))
        self._warn = LOG_FUNCTION(_formatted(warn))

    def initialise(self, config_file: str) -> None:
        """Call once per process, after its fork: the library starts threads. Raises VddkError."""
        self.check(
            "InitEx",
            *(API_MAJOR, API_MINOR, self._log, self._warn, self._warn),
            *(os.fsencode(self.path.parent), os.fsencode(config_file) or None),
        )

    def check(self, name: str, *arguments: object) -> None:
        """Call a function that returns a VixError. Raises VddkError with the library's text."""
        if error := self.function[name](*arguments):
            raise self.error(name, error)

    def error(self, name: str, error: int, detail: str = "") -> VddkError:
        """The exception for a function that returned a VixError."""
        # VIX_ERROR_CODE of vix.h: the higher bits are not part of the code.
        number = error & 0xFFFF
        message = f"VixDiskLib_{name}: {self.text(error)}{detail}"
        return VddkError(message, function=name, number=number)

    def text(self, error: int) -> str:
        """The library's text for an error code."""
        pointer = self.function["GetErrorText"](error, None)
        text = ctypes.string_at(pointer).decode(errors="replace") if pointer else "unknown error"
        self.function["FreeErrorText"](pointer)
        return f"{text} (error {error & 0xFFFF})"

    def start_read(
        self, handle: ctypes.c_void_p, sector: int, count: int, address: int, done: SimpleQueue[int]
    ) -> None:
        """Begin a read; its VixError is put into ``done`` when the bytes are at ``address``."""
        ticket = next(self._tickets)
        self._waiting[ticket] = done
        result = self.function["ReadAsync"](
            handle, sector, count, address, self._completion, ticket
        )
        if result != VIX_ASYNC:  # refused: the library will not call back
            self._completed(ticket, result)

    def _completed(self, ticket: int, error: int) -> None:
        self._waiting.pop(ticket).put(error)


def one_line(text: str) -> str:
    """The text without line ends, so that no part of it can be taken for another message."""
    return " ".join(text.splitlines())


def _formatted(sink: Sink) -> Callable[[bytes, int], None]:
    """A log function for the library, which passes a printf format and a va_list."""
    vsnprintf = ctypes.CDLL(None).vsnprintf
    vsnprintf.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p]

    def log(text_format: bytes, arguments: int) -> None:
        buffer = ctypes.create_string_buffer(1024)
        vsnprintf(buffer, len(buffer), text_format, arguments)
        sink(buffer.value.decode(errors="replace").rstrip())

    return log


def find_library(libdir: str) -> Path:
    """The path of the newest release found, in lib64 or directly in `libdir`. Raises VddkError."""
    for name in SONAMES:
        for directory in (Path(libdir, "lib64"), Path(libdir)):
            if (directory / name).exists():
                return directory / name
    raise VddkError(f"no {' or '.join(SONAMES)} in {libdir}/lib64 or {libdir}")
