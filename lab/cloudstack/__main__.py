"""``python -m lab.cloudstack --dir D --port P``: serve until SIGTERM."""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path

from lab.cloudstack.control import handlers
from lab.cloudstack.server import HttpFront, ManagementServer
from lab.control import serve_control


def main() -> None:
    """Serve the API on loopback and the control socket in ``D/cloudstack``."""
    parser = argparse.ArgumentParser(prog="lab.cloudstack", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="directory of the lab instance")
    parser.add_argument("--port", type=int, required=True, help="loopback port of the API")
    parser.add_argument(
        "--job-latency", type=float, default=0.05, help="seconds that a job takes at least"
    )
    options = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    management = ManagementServer(options.dir.resolve(), job_latency_seconds=options.job_latency)
    front = HttpFront(management, options.port)
    control = serve_control(management.directory / "control.sock", handlers(management))
    serving = threading.Thread(target=front.serve_forever, args=(0.05,), name="http", daemon=True)
    serving.start()
    stop.wait()
    front.shutdown()
    front.server_close()
    control.close()
    management.close()


if __name__ == "__main__":
    main()
