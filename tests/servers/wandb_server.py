"""A W&B server on the loopback: enough of one for the real SDK to start, fill, finish and resume a run.

It speaks the GraphQL operations, the file stream and the uploads that wandb-core uses, keeps what it got in
plain objects, and breaks on demand:

    with WandBServer() as server:
        server.fault("file_stream", status=500, times=3)
        ...
        assert server.runs["run-id"].rows() == [...]
"""

from __future__ import annotations

import gzip
import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self, cast
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

API_KEY = "local-" + "0123456789" * 4
"""A key in the form that the SDK accepts; this server accepts any."""

ENTITY = "tester"


@dataclass
class ServerRun:
    """What the server has of one run.

    Attributes:
        lines: Lines by offset, by file of the stream (`wandb-history.jsonl`, ...): a line sent twice to one
            offset stands once.
        files: Uploaded files by name.
        upserts: How often the run was created or changed.
    """

    id: str
    project: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    notes: str = ""
    tags: list[str] = field(default_factory=list[str])
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    lines: dict[str, dict[int, str]] = field(default_factory=dict[str, dict[int, str]])
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    complete: bool = False
    exit_code: int | None = None
    upserts: int = 0

    def stream(self, file: str) -> list[str]:
        """Return the lines of one file of the stream, in the order of their offsets."""
        lines = self.lines.get(file, {})
        return [lines[offset] for offset in sorted(lines)]

    def rows(self) -> list[dict[str, Any]]:
        """Return the history, decoded."""
        return [json.loads(line) for line in self.stream("wandb-history.jsonl")]

    def summary(self) -> dict[str, Any]:
        """Return the summary, decoded; a later one replaces an earlier one."""
        lines = self.stream("wandb-summary.json")
        return json.loads(lines[-1]) if lines else {}

    def values(self) -> dict[str, Any]:
        """Return the configuration as the user set it."""
        return {key: item["value"] for key, item in self.config.items() if key != "_wandb"}


@dataclass
class Fault:
    """How an endpoint misbehaves: waits, refuses, or never answers."""

    status: int = 0
    delay: float = 0.0
    hang: bool = False
    times: int = 1 << 30


class WandBServer:
    """The server; runs in threads of this process between `with` and its end.

    Attributes:
        runs: What it has, by run id.
        seen: How often each endpoint was asked: `file_stream`, `upload`, or a GraphQL operation's name.
    """

    def __init__(self) -> None:
        self.runs: dict[str, ServerRun] = {}
        self.seen: Counter[str] = Counter()
        self.lock = threading.Lock()
        self._faults: dict[str, Fault] = {}
        self._closing = threading.Event()
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """Address for `WANDB_BASE_URL`."""
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def environment(self) -> Mapping[str, str]:
        """What a client's environment needs to come here."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": API_KEY}

    def fault(
        self, endpoint: str, *, status: int = 0, delay: float = 0.0, hang: bool = False, times: int = 1 << 30
    ) -> None:
        """Let an endpoint misbehave for its next requests; `*` stands for all of them."""
        self._faults[endpoint] = Fault(status, delay, hang, times)

    def heal(self) -> None:
        """Take back all faults, also from requests that hang."""
        self._faults.clear()

    def misbehave(self, endpoint: str) -> int:
        """Act out an endpoint's fault and return the status to answer with, 0 for none."""
        fault = self._faults.get(endpoint) or self._faults.get("*")
        if fault is None or fault.times <= 0:
            return 0
        fault.times -= 1
        self._closing.wait(fault.delay)
        while fault.hang and fault in self._faults.values() and not self._closing.wait(0.05):
            pass
        return fault.status

    def run(self, run_id: str) -> ServerRun:
        """Return a run, made if it is new."""
        return self.runs.setdefault(run_id, ServerRun(run_id))


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    owner: WandBServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that was killed."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def owner(self) -> WandBServer:
        return cast("_Http", self.server).owner

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing: tests read `seen` instead."""

    def do_GET(self) -> None:
        self._serve("get", lambda _path, _body: {})

    def do_PUT(self) -> None:
        self._serve("upload", self._upload)

    def do_POST(self) -> None:
        if self.path.endswith("/file_stream"):
            self._serve("file_stream", self._file_stream)
        else:
            self._serve("", self._graphql)

    def _serve(self, endpoint: str, answer: Any) -> None:
        path = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        body = self._body()
        endpoint = endpoint or json.loads(body).get("operationName") or "graphql"
        owner = self.owner
        with owner.lock:
            owner.seen[endpoint] += 1
        status = owner.misbehave(endpoint)
        if status:
            self._reply({"error": "injected fault"}, status)
            return
        with owner.lock:
            reply = answer(path, body)
        self._reply(reply, 200)

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _reply(self, reply: dict[str, Any], status: int) -> None:
        data = json.dumps(reply).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            self.close_connection = True  # the client gave up waiting

    def _upload(self, path: list[str], body: bytes) -> dict[str, Any]:
        run_id, name = path[1], "/".join(path[2:])
        self.owner.run(run_id).files[name] = body
        return {}

    def _file_stream(self, path: list[str], body: bytes) -> dict[str, Any]:
        run = self.owner.run(path[3])
        message = json.loads(body)
        for name, chunk in (message.get("files") or {}).items():
            lines = run.lines.setdefault(name, {})
            for offset, line in enumerate(chunk["content"], chunk["offset"]):
                lines[offset] = line
        if message.get("complete"):
            run.complete, run.exit_code = True, message.get("exitcode")
        return {"limits": {}}

    def _graphql(self, _path: list[str], body: bytes) -> dict[str, Any]:
        request = json.loads(body)
        answer = _OPERATIONS.get(request.get("operationName") or "")
        if answer is None:
            return {"errors": [{"message": f"unknown operation {request.get('operationName')}"}]}
        return {"data": answer(self.owner, request.get("variables") or {})}


def _viewer(_server: WandBServer, _variables: dict[str, Any]) -> dict[str, Any]:
    viewer = {
        "id": "viewer",
        "entity": ENTITY,
        "username": ENTITY,
        "email": "",
        "flags": "{}",
        "teams": {"edges": []},
    }
    return {"viewer": viewer}


def _features(_server: WandBServer, _variables: dict[str, Any]) -> dict[str, Any]:
    return {"serverInfo": {"features": []}}


def _upsert(server: WandBServer, variables: dict[str, Any]) -> dict[str, Any]:
    is_new = variables["name"] not in server.runs
    run = server.run(variables["name"])
    run.upserts += 1
    if is_new:
        run.complete = False
    _assign(run, variables)
    bucket = _bucket(run)
    return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}


def _assign(run: ServerRun, variables: dict[str, Any]) -> None:
    names = {
        "project": "project",
        "displayName": "name",
        "groupName": "group",
        "jobType": "job_type",
        "notes": "notes",
        "tags": "tags",
    }
    for variable, attribute in names.items():
        if variables.get(variable):
            setattr(run, attribute, variables[variable])
    if variables.get("config"):
        run.config = json.loads(variables["config"])


def _project(run: ServerRun) -> dict[str, Any]:
    return {"id": "project", "name": run.project, "entity": {"id": ENTITY, "name": ENTITY}}


def _bucket(run: ServerRun) -> dict[str, Any]:
    lines = run.stream("wandb-history.jsonl")
    events = run.stream("wandb-events.jsonl")
    return {
        "id": run.id,
        "name": run.id,
        "displayName": run.name,
        "description": run.notes,
        "notes": run.notes,
        "config": json.dumps(run.config),
        "sweepName": None,
        "project": _project(run),
        "historyLineCount": len(lines),
        "eventsLineCount": len(events),
        "logLineCount": len(run.stream("output.log")),
        "historyTail": json.dumps(lines[-1:]),
        "eventsTail": json.dumps(events[-1:]),
        "summaryMetrics": json.dumps(run.summary()),
        "tags": run.tags,
        "wandbConfig": json.dumps({"t": run.config.get("_wandb", {}).get("value", {}).get("t", {})}),
    }


def _resume_status(server: WandBServer, variables: dict[str, Any]) -> dict[str, Any]:
    run = server.runs.get(variables["name"])
    if run is None:
        return {"model": None}
    return {"model": {**_project(run), "bucket": _bucket(run)}}


def _create_files(server: WandBServer, variables: dict[str, Any]) -> dict[str, Any]:
    run = server.run(variables["run"])
    files = [
        {"name": name, "uploadUrl": f"{server.url}/upload/{run.id}/{name}"} for name in variables.get("files") or []
    ]
    return {"createRunFiles": {"runID": run.id, "uploadHeaders": [], "files": files}}


def _stopped(_server: WandBServer, _variables: dict[str, Any]) -> dict[str, Any]:
    return {"project": {"run": {"stopped": False}}}


_OPERATIONS = {
    "Viewer": _viewer,
    "ServerFeaturesQuery": _features,
    "UpsertBucket": _upsert,
    "RunResumeStatus": _resume_status,
    "CreateRunFiles": _create_files,
    "RunStoppedStatus": _stopped,
}
