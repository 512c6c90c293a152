"""``python -m lab.vcenter --dir D --port P``: runs the simulator until SIGTERM."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import threading
from pathlib import Path

from lab.control import serve_control
from lab.vcenter.certificate import ensure_certificate
from lab.vcenter.control import handlers
from lab.vcenter.dispatch import Dispatcher
from lab.vcenter.methods.tasks import Tasks
from lab.vcenter.server import VcenterServer
from lab.vcenter.startup import esxi_client, open_world, writer_guests
from lab.vcenter.world.faults import Injector
from lab.vcenter.world.sessions import Sessions
from lab.vcenter.world.vm_state import write_atomically

_DRAIN_SECONDS = 10.0


def main() -> None:
    """Serve SOAP on loopback and the control socket in ``D/vcenter``, which exists once the
    simulator is ready. Guests keep running when it ends, as they do without a vCenter."""
    parser = argparse.ArgumentParser(prog="python -m lab.vcenter", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="directory of the lab instance")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port to listen on, 0 = any")
    parser.add_argument("--verbose", action="store_true", help="log every request")
    options = parser.parse_args()
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    _serve(options.dir.absolute(), options.host, options.port, stop)


def _serve(directory: Path, host: str, port: int, stop: threading.Event) -> None:
    state = directory / "vcenter"
    certificate = ensure_certificate(state)
    world = open_world(directory, esxi_client(directory), writer_guests)
    injector = Injector()
    tasks = Tasks(world, injector)
    sessions = Sessions(
        world.inventory.scenario.users,
        world.clock,
        lambda: world.settings.session_idle_seconds,
    )
    dispatcher = Dispatcher(world, tasks, sessions, injector)
    with VcenterServer(dispatcher, host, port, certificate.key_and_certificate) as server:
        write_atomically(state / "address.json", json.dumps([host, server.port]).encode())
        operations = handlers(world, tasks, sessions, injector, stop.set)
        with serve_control(state / "control.sock", operations):
            stop.wait()
    tasks.drain(_DRAIN_SECONDS)


if __name__ == "__main__":
    main()
