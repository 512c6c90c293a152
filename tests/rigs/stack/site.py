"""A lab and the product's processes around it, started as their users start them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.demo import files
from lab.scenario import Scenario
from lab.stack import Lab, running_lab

_COMMAND = (sys.executable, "-m", "cli")
_READY_SECONDS = 60.0
_STOP_SECONDS = 60.0
MARK = "V2C_TEST_SITE"
"""Environment variable that everything a site starts inherits, also what outlives its parents."""


class Process:
    """A v2c command of its own; its output is collected while it runs."""

    def __init__(self, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [*_COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Ctrl-C of whoever runs the tests is not meant for it.
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )
        self._out: list[str] = []
        self._err: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(stream, into), daemon=True)
            for stream, into in (
                (self._process.stdout, self._out),
                (self._process.stderr, self._err),
            )
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """Process id of the command itself; the services are its children."""
        return self._process.pid

    @property
    def out(self) -> str:
        """What it printed so far."""
        return "".join(self._out)

    @property
    def err(self) -> str:
        """What it printed to standard error so far."""
        return "".join(self._err)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def wait(self, seconds: float = 60.0) -> int:
        """Wait for its end; the exit status."""
        status = self._process.wait(seconds)
        for reader in self._readers:
            # A service that outlives it may hold its standard output.
            reader.join(5)
        return status

    def wait_for(self, text: str, seconds: float = 30.0) -> None:
        """Wait until it has printed ``text`` on either stream."""
        deadline = time.monotonic() + seconds
        while text not in self.out and text not in self.err:
            ended = not self.running
            assert not ended, f"ended without {text!r}:\n{self.out}\n{self.err}"
            assert time.monotonic() < deadline, f"no {text!r} in:\n{self.out}\n{self.err}"
            time.sleep(0.05)

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL to the command, not to its services."""
        self._process.kill()

    def end(self) -> None:
        """Stop it as a service manager does, and wait; nothing happens when it has ended."""
        if self.running:
            self._process.terminate()
        try:
            self.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self.wait()
            raise

    def _read(self, stream: Any, into: list[str]) -> None:
        with stream:
            for line in stream:
                into.append(line)


@dataclass
class Site:
    """A lab, and a directory with the config that leads there."""

    lab: Lab
    directory: Path
    content: dict[str, Any]

    @property
    def config(self) -> Path:
        """The config file."""
        return self.directory / "config.yaml"

    @property
    def control_dir(self) -> Path:
        """Where the product keeps its state."""
        return Path(self.content["migration"]["control_dir"])

    @property
    def env(self) -> dict[str, str]:
        """What marks this site's processes."""
        return {MARK: str(self.control_dir)}

    @property
    def pool(self) -> Path:
        """Where images of the default pool are."""
        return Path(self.lab.info["cloudstack"]["pool_path"])

    @property
    def ids(self) -> dict[str, str]:
        """What CloudStack has, by role."""
        ids: dict[str, str] = self.lab.info["cloudstack"]["ids"]
        return ids

    def spec_file(self, name: str, *vms: dict[str, Any]) -> Path:
        """Write a spec; one machine goes to the top, several into a list."""
        content = vms[0] if len(vms) == 1 else {"vms": list(vms)}
        return files.write_yaml(self.directory / f"{name}.yaml", content)

    def run(self, *specs: Path, arguments: tuple[str, ...] = ()) -> Process:
        """``v2c run`` in the background."""
        named = [word for spec in specs for word in ("--spec", str(spec))]
        return Process("run", *named, "--config", str(self.config), *arguments, env=self.env)

    def v2c(self, *arguments: str, seconds: float = 60.0) -> Process:
        """A v2c command with this site's config, run to its end."""
        process = Process(*arguments, "--config", str(self.config), env=self.env)
        process.wait(seconds)
        return process

    def variant(self, name: str, **sections: Mapping[str, Any]) -> Site:
        """The same lab with a control_dir of its own; ``sections`` go over the config's."""
        return site_on(self.lab, self.directory / name, **sections)


def site_on(lab: Lab, directory: Path, **sections: Mapping[str, Any]) -> Site:
    """A config for a running lab in ``directory``."""
    content = files.config_for(lab, directory / "control", **sections)
    site = Site(lab, directory, content)
    files.write_yaml(site.config, content)
    return site


@contextmanager
def running_site(directory: Path, scenario: Scenario | str, **sections: Any) -> Iterator[Site]:
    """A new lab and a config for it."""
    with running_lab(directory / "lab", scenario) as lab:
        yield site_on(lab, directory, **sections)


@dataclass(frozen=True)
class Serving:
    """A ``v2c serve`` that is ready."""

    process: Process
    rest: str
    """Base URL of the REST API."""
    token: str
    """Admin token; empty when an earlier start has printed it."""


@contextmanager
def serving(site: Site) -> Iterator[Serving]:
    """``v2c serve`` for the time of the block."""
    command = ("serve", "--config", str(site.config), "--listen", "127.0.0.1:0")
    process = Process(*command, env=site.env)
    try:
        process.wait_for("ready; REST API at", _READY_SECONDS)
        url = process.err.split("REST API at ")[1].split(",")[0]
        _, printed, rest = process.out.partition("keep it): ")
        yield Serving(process, url, rest.split()[0] if printed else "")
    finally:
        process.end()
