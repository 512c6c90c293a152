"""nbdkit: what the installed one supports, its command line, and running it for one source.

It serves read-only, on a unix socket in a private directory, and gets the password by a pipe only.
"""

import functools
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from services.disk_agent.host.commands import Completed, HostCommands
from services.disk_agent.host.errors import ToolMissing, ToolTimeout
from services.disk_agent.host.process import NbdServer, ServerEnded
from services.disk_agent.transfer_failures import (
    NbdkitFilterMissing,
    NbdkitMissing,
    NbdkitPluginMissing,
    SourceUnusable,
    VddkNotConfigured,
    VddkNotFound,
)
from services.disk_agent.vddk.abi import LARGEST_READ_BYTES
from services.disk_agent.vddk.error_line import reported_error
from services.disk_agent.worker.order import VddkSpec
from services.disk_agent.worker.password import Password

PLUGIN = Path(__file__).parents[1] / "vddk" / "plugin.py"

_PROBE_SECONDS = 20.0
_START_SECONDS = 60.0
_STOP_SECONDS = 10.0
_STEP_SECONDS = 0.01
_SHOWN_LINES = 5
_PASSWORD_BYTES = 4096
# "nbdkit: python[1]: error: /…/plugin.py: open: error: VddkError: ", or a part of it.
_PREFIX = re.compile(
    r"^nbdkit: (?:\S+ )?(?:error: )?(?:\S+\.py: )?(?:\w+: error: )?(?:\w+Error: )?"
)


@dataclass(frozen=True)
class Nbdkit:
    """The installed nbdkit: its version, and which plugins for VDDK it has."""

    version: str
    native_vddk: bool
    python_plugin: bool

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the kinds of source that nbdkit can open, best first."""
        native = ("vddk-native",) if self.native_vddk else ()
        return native + (("vddk-python",) if self.python_plugin else ())


@functools.cache
def probe() -> Nbdkit:
    """Probe the installed nbdkit. Blocks for some hundred milliseconds the first time.

    Raises NbdkitMissing.
    """
    match = re.search(r"nbdkit (\S+)", _run("--version").stdout)
    return Nbdkit(
        version=match[1] if match else "unknown",
        native_vddk=_run("--dump-plugin", "vddk").status == 0,
        python_plugin=_run("--dump-plugin", "python").status == 0,
    )


@functools.cache
def has_filter(name: str) -> bool:
    """Whether the installed nbdkit has a filter. Blocks for some milliseconds the first time."""
    found = re.search(r"^filterdir=(.+)$", _run("--dump-config").stdout, re.MULTILINE)
    return found is not None and Path(found[1], f"nbdkit-{name}-filter.so").exists()


def _run(*arguments: str) -> Completed:
    try:
        return HostCommands().run(["nbdkit", *arguments], timeout_seconds=_PROBE_SECONDS)
    except ToolMissing as error:
        raise NbdkitMissing("nbdkit is not installed") from error
    except ToolTimeout as error:
        raise SourceUnusable(
            error.message, retryable=True, hint="look at this host's load"
        ) from error


def library_dir(configured: str) -> Path:
    """The VDDK directory, checked. Raises VddkNotConfigured or VddkNotFound."""
    if not configured:
        raise VddkNotConfigured("no VDDK library directory is configured")
    path = Path(configured)
    folders = [path / "lib64", path]
    if not any(found for folder in folders for found in folder.glob("libvixDiskLib.so*")):
        raise VddkNotFound(
            f"there is no VDDK in {path}: no lib64/libvixDiskLib.so* is found there",
            metadata={"vddk_path": str(path)},
        )
    return path


def vddk_command(
    spec: VddkSpec,
    installed: Nbdkit,
    socket: Path,
    pidfile: Path,
    password_fd: int,
    *,
    read_bytes: int = 0,
) -> list[str]:
    """The command line that serves one disk of a snapshot.

    `read_bytes` is the largest read that the caller will send. v2c's plugin takes the same
    parameters as nbdkit's vddk plugin. Raises NbdkitPluginMissing when the host can run neither of
    them, and NbdkitFilterMissing.
    """
    if installed.native_vddk:
        plugin = ["vddk"]
    elif installed.python_plugin:
        plugin = ["python", f"script={PLUGIN}"]
    else:
        raise NbdkitPluginMissing("nbdkit has neither the vddk nor the python plugin")
    # Our plugin splits reads itself.
    splitting, limits = _splitting(read_bytes) if installed.native_vddk else ([], [])
    optional = {
        "thumbprint": spec.thumbprint,
        "snapshot": spec.snapshot_moref,
        "transports": spec.transports,
        "port": str(spec.port or ""),
    }
    return [
        "nbdkit",
        "--foreground",
        # Ends nbdkit with the thread that starts it: that must be a long-lived thread.
        "--exit-with-parent",
        "--readonly",
        f"--unix={socket}",
        f"--pidfile={pidfile}",
        # Errors go to stderr, which is read here, and not to syslog.
        "--log=stderr",
        # Requests pass the filters from left to right. blocksize must be next to the plugin: a
        # filter between the two could join the requests that it has split.
        *splitting,
        *plugin,
        *limits,
        f"libdir={spec.library_dir}",
        f"server={spec.server}",
        f"user={spec.user}",
        f"password=-{password_fd}",
        f"vm=moref={spec.vm_moref}",
        f"file={spec.disk_path}",
        *(f"{name}={value}" for name, value in optional.items() if value),
    ]


def _splitting(read_bytes: int) -> tuple[list[str], list[str]]:
    """The filter that splits reads for VDDK, and its parameters.

    nbdkit's vddk plugin passes requests of any size to the library. If all are small enough, as
    with the default chunk of 1 MiB, the filter would only cost time.
    """
    if read_bytes <= LARGEST_READ_BYTES:
        return [], []
    if not has_filter("blocksize"):
        raise NbdkitFilterMissing(
            f"nbdkit has no blocksize filter, which reads of {read_bytes} bytes need"
        )
    return ["--filter=blocksize"], [f"maxdata={LARGEST_READ_BYTES}"]


class NbdkitServer:
    """A running nbdkit. Start it from a long-lived thread; close connections before stopping.

    nbdkit waits for its clients when it is asked to end, so `stop` kills it after a while.
    """

    def __init__(
        self,
        runtime_dir: Path,
        build: Callable[[Path, Path, int], list[str]],
        *,
        password: Password,
        environment: Mapping[str, str] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`build` gets socket, pidfile and password descriptor, and returns the command line."""
        self._server = NbdServer(runtime_dir, "source", sleep=sleep, now=now)
        self._build = build
        self._password = password
        self._environment = dict(environment or {})

    @property
    def uri(self) -> str:
        """Where the source is served."""
        return self._server.uri

    def __enter__(self) -> Self:
        password = self._password.reveal().encode()
        if len(password) > _PASSWORD_BYTES:
            raise SourceUnusable(
                f"the password has more than {_PASSWORD_BYTES} bytes",
                hint="look at what the setting or file holds",
            )
        reading, writing = os.pipe()
        try:
            # A pipe takes 64 KiB without a reader, so this does not block.
            os.write(writing, password)
            os.close(writing)
            self._server.start(
                self._build(self._server.socket, self._server.pidfile, reading),
                {**os.environ, **self._environment},
                pass_fds=(reading,),
                binds_itself=True,
            )
        finally:
            os.close(reading)
        try:
            self._wait_until_served()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def last_messages(self) -> str:
        """The last messages of nbdkit and of the library below it, on one line."""
        lines = [line for line in self._server.stderr_lines() if reported_error(line) is None]
        # Each message is printed twice: by the plugin, and by nbdkit.
        return "; ".join(dict.fromkeys(_PREFIX.sub("", line) for line in lines[-_SHOWN_LINES:]))

    def vix_error(self) -> int | None:
        """The last error number of libvixDiskLib that our plugin reported."""
        numbers = [reported_error(line) for line in self._server.stderr_lines()]
        return next((number for number in reversed(numbers) if number is not None), None)

    def stop(self) -> None:
        """End it and remove its files."""
        self._server.stop(_STOP_SECONDS)

    def _wait_until_served(self) -> None:
        try:
            # The pid file is written once the socket listens.
            self._server.wait_until_served(_START_SECONDS, _STEP_SECONDS)
        except ServerEnded as error:
            raise SourceUnusable(
                f"nbdkit ended at once: {self.last_messages()}",
                hint="look at nbdkit's message and at the VDDK in migration.vddk_path",
            ) from error
        except TimeoutError as error:
            raise SourceUnusable(
                f"nbdkit did not start in time: {self.last_messages()}",
                hint="look at nbdkit's message and at this host's load",
            ) from error
