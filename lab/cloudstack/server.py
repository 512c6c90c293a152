"""The API over HTTP: parameters, signature, faults, dispatch, envelopes."""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from lab.cloudstack.commands import imports, listing, nics, vms, volumes
from lab.cloudstack.contract import Command, Request, find_command, load_contract, parse_request
from lab.cloudstack.errors import ApiError, parameter_error
from lab.cloudstack.faults import FaultTable
from lab.cloudstack.jobs import JobRunner
from lab.cloudstack.seed import initial_tables, pool_paths
from lab.cloudstack.signature import verify
from lab.cloudstack.store import Row, Store, load_credentials
from lab.cloudstack.world import ADMIN, World, present

_MAX_BODY_BYTES: Final = 4 << 20

_COMMANDS: Final[Mapping[str, Callable[[World, Request], Row]]] = {
    "importvm": imports.import_vm,
    "importvolume": imports.import_volume,
    "listvolumesforimport": imports.list_volumes_for_import,
    "unmanagevolume": imports.unmanage_volume,
    "unmanagevirtualmachine": imports.unmanage_vm,
    "attachvolume": volumes.attach_volume,
    "detachvolume": volumes.detach_volume,
    "deletevolume": volumes.delete_volume,
    "addnictovirtualmachine": nics.add_nic,
    "removenicfromvirtualmachine": nics.remove_nic,
    "updatedefaultnicforvirtualmachine": nics.update_default_nic,
    "updatevmnicip": nics.update_nic_ip,
    "updatevirtualmachine": vms.update_vm,
    "startvirtualmachine": vms.start_vm,
    "stopvirtualmachine": vms.stop_vm,
    "destroyvirtualmachine": vms.destroy_vm,
    "expungevirtualmachine": vms.expunge_vm,
    "listnics": listing.list_nics,
    "listcapabilities": listing.list_capabilities,
    "listapis": listing.list_apis,
}


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; ``body`` is JSON unless ``content_type`` is another type."""

    status: int
    body: bytes
    content_type: str = "application/json;charset=UTF-8"


class DroppedConnectionError(Exception):
    """The connection is to be closed without an answer."""


class ManagementServer:
    """The lab's CloudStack without its transport: turns requests into answers."""

    def __init__(
        self, directory: Path, *, job_latency_seconds: float = 0.05, strict: bool = True
    ) -> None:
        self.directory = directory / "cloudstack"
        self.api_key, self.secret_key = load_credentials(self.directory)
        for path in pool_paths(directory).values():
            path.mkdir(parents=True, exist_ok=True)
        self.faults = FaultTable()
        self.world = World(
            Store(self.directory, initial_tables(directory)), pool_paths(directory), self.faults
        )
        self.jobs = JobRunner(self.world.store, self.faults, job_latency_seconds)
        self.strict = strict
        self.requests: dict[str, int] = {}
        self._contract = load_contract()
        self._lock = threading.Lock()

    def handle(self, parameters: Mapping[str, str]) -> Answer:
        """Answer one request given by its decoded parameters.

        Raises:
            DroppedConnectionError: a fault closes this connection.
        """
        name = parameters.get("command", "")
        with self._lock:
            self.requests[name] = self.requests.get(name, 0) + 1
        self._strike_before(name)
        page = self.faults.take(name, "http")
        if page is not None:
            text = f"<html><body><h1>{page.code}</h1>{page.text}</body></html>"
            return Answer(page.code, text.encode(), "text/html")
        try:
            command = find_command(self._contract, name)
        except ApiError as error:
            return _error("errorresponse", error)
        try:
            result = self._run(command, parameters)
        except ApiError as error:
            return _error(command.envelope, error)
        if self.faults.take(name, "drop_after"):
            raise DroppedConnectionError(name)
        return Answer(200, json.dumps({command.envelope: result}).encode())

    def close(self) -> None:
        """End the threads of pending jobs."""
        self.jobs.stop()

    def _strike_before(self, name: str) -> None:
        delay = self.faults.take(name, "delay")
        if delay is not None:
            time.sleep(delay.seconds)
        if self.faults.take(name, "drop_before"):
            raise DroppedConnectionError(name)

    def _run(self, command: Command, parameters: Mapping[str, str]) -> Row:
        verify(
            parameters,
            api_key=self.api_key,
            secret_key=self.secret_key,
            now=datetime.now(UTC),
        )
        refusal = self.faults.take(command.name, "error")
        if refusal is not None:
            raise ApiError(refusal.code, refusal.text)
        if parameters.get("response", "xml").lower() != "json":
            raise parameter_error("This server answers response=json only")
        request = parse_request(command, parameters, strict=self.strict)
        self.world.check_ids(request)
        if command.name == "queryAsyncJobResult":
            return self._job_result(request)
        work = _COMMANDS.get(command.name.lower(), listing.run_list)
        if not command.is_async:
            # The answer is a copy: jobs keep changing the rows while it is written.
            with self.world.store.reading():
                return copy.deepcopy(_trim(command, work(self.world, request)))
        job_id = self.jobs.submit(
            command.name,
            request.custom_job_id,
            self.world.account(ADMIN),
            request.text("id"),
            lambda: _trim(command, work(self.world, request)),
        )
        return {"jobid": job_id}

    def _job_result(self, request: Request) -> Row:
        job = self.world.store.find("job", request.text("jobid"))
        if job is None:
            raise parameter_error(
                "Unable to execute API command queryasyncjobresult due to invalid value."
                f" Invalid parameter jobid value={request.text('jobid')} due to incorrect long"
                " value format, or entity does not exist or due to incorrect parameter"
                " annotation for the field in api cmd class."
            )
        return present(request.command, job)


def _trim(command: Command, result: Row) -> Row:
    """Reduce the entity in a single-object answer to the real response's fields."""
    return {
        key: present(command, value)
        if isinstance(value, dict) and key in ("virtualmachine", "volume", "capability")
        else value
        for key, value in result.items()
    }


def _error(envelope: str, error: ApiError) -> Answer:
    body = {"uuidList": [], "errorcode": error.code, "errortext": error.text}
    return Answer(error.code, json.dumps({envelope: body}).encode())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body are sent together: apart, Nagle's algorithm and delayed acknowledgements
    # would delay every answer on a kept connection by 40 ms.
    wbufsize = -1
    server: HttpFront

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        length = min(int(self.headers.get("Content-Length") or 0), _MAX_BODY_BYTES)
        self._answer(self.rfile.read(length))

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: request lines have signatures in them."""

    def _answer(self, body: bytes) -> None:
        parts = urlsplit(self.path)
        if parts.path.rstrip("/") != "/client/api":
            self.send_error(404)
            return
        pairs = [
            *parse_qsl(parts.query, keep_blank_values=True),
            *parse_qsl(body.decode(), keep_blank_values=True),
        ]
        try:
            answer = self.server.management.handle(dict(pairs))
        except DroppedConnectionError:
            self.close_connection = True
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)


class HttpFront(ThreadingHTTPServer):
    """``/client/api`` on a loopback port."""

    daemon_threads = True

    def __init__(self, management: ManagementServer, port: int) -> None:
        self.management = management
        super().__init__(("127.0.0.1", port), _Handler)
