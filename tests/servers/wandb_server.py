"""A W&B server on the loopback: enough of one for the real SDK to start, fill, finish and resume a run.

It speaks the GraphQL operations, the file stream and the uploads that wandb-core uses, keeps what it got in
plain objects, and breaks on demand: it refuses, waits, hangs, drops connections, loses answers.

    with WandBServer() as server:
        server.fault("file_stream", status=500, times=3)
        ...
        assert server.runs["run-id"].rows() == [...]
"""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self, cast
from urllib.parse import quote, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

API_KEY = "local-" + "0123456789" * 4
"""A key in the form that the SDK accepts; this server accepts any."""

ENTITY = "tester"


def _own(line: str) -> dict[str, Any]:
    """Return a line of the history without what the SDK adds anew each time."""
    return {key: value for key, value in json.loads(line).items() if key not in ("_runtime", "_wandb")}


@dataclass
class ServerRun:
    """What the server has of one run.

    Attributes:
        rewritten: Lines of the history that came again to the same offset with other values.
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
    rewritten: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def put(self, file: str, offset: int, content: list[str]) -> None:
        """Take lines of the stream, as W&B does: by offset."""
        lines = self.lines.setdefault(file, {})
        for number, line in enumerate(content, offset):
            old = lines.get(number, line)
            if file == "wandb-history.jsonl" and _own(old) != _own(line):
                self.rewritten.append((old, line))
            lines[number] = line

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
class ServerArtifact:
    """One version of an artifact.

    Attributes:
        files: Bytes by path; of a file that came with an earlier version too, whatever that has.
        manifest: What the SDK says that it consists of.
        committed: Whether all of it is there.
        used: Whether the run says that it has used it.
        clients: What the SDK has called it, each time that it came.
        models: Registered models that it is a version of.
    """

    id: str
    run: str
    type: str
    name: str
    digest: str
    description: str = ""
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    aliases: list[str] = field(default_factory=list[str])
    tags: list[str] = field(default_factory=list[str])
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    manifest: dict[str, Any] = field(default_factory=dict[str, Any])
    committed: bool = False
    used: bool = False
    clients: list[str] = field(default_factory=list[str])
    models: list[str] = field(default_factory=list[str])


@dataclass
class Fault:
    """How an endpoint misbehaves; what is combined happens in this order.

    Attributes:
        delay: Seconds before it does anything.
        hang: Whether it never answers, until the server is healed.
        drop: Whether it closes the connection without having done what was asked.
        lost: Whether it does what was asked, and closes the connection without saying so.
        status: What it answers instead of doing what was asked; 0 for none.
        times: For how many requests.
    """

    delay: float = 0.0
    hang: bool = False
    drop: bool = False
    lost: bool = False
    status: int = 0
    times: int = 1 << 30


_NO_FAULT = Fault()


class WandBServer:
    """The server; runs in threads of this process between `with` and its end.

    Attributes:
        runs: What it has, by run id.
        seen: How often each endpoint was asked: `file_stream`, `upload`, or a GraphQL operation's name.
        suffered: How often each endpoint misbehaved.
        artifacts: Versions of artifacts; one that comes again with the same content is no new one.
        alerts: What people were told: run, title, text, severity.

    Args:
        port: Where to listen: 0 for any free port. A second server may take the place of one that ended.
        runs: What it has from the start.
    """

    def __init__(self, port: int = 0, runs: dict[str, ServerRun] | None = None) -> None:
        self.runs = {} if runs is None else runs
        self.artifacts: list[ServerArtifact] = []
        self.alerts: list[dict[str, Any]] = []
        self.seen: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.suffered: Counter[str] = Counter()
        self._deleted: set[str] = set()
        self._faults: dict[str, Fault] = {}
        self._closing = threading.Event()
        self._http = _Http(("127.0.0.1", port), _Handler)
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

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._http.server_port

    def fault(self, endpoint: str, fault: Fault | None = None, **kind: Any) -> None:
        """Let an endpoint misbehave for its next requests; `*` stands for all of them."""
        self._faults[endpoint] = fault or Fault(**kind)

    def heal(self) -> None:
        """Take back all faults, also from requests that hang."""
        self._faults.clear()

    def delete(self, run_id: str) -> None:
        """Delete a run; W&B's own server answers 410 from then on, and never gives the id again."""
        with self.lock:
            del self.runs[run_id]
            self._deleted.add(run_id)

    def is_gone(self, path: list[str], body: bytes) -> bool:
        """Tell whether a request is about a run that was deleted, and would change it."""
        if path[-1] == "file_stream":
            return path[3] in self._deleted
        return any(_asks_for(body, operation, self._deleted) for operation in ("UpsertBucket", "CreateRunFiles"))

    def misbehave(self, endpoint: str) -> Fault:
        """Wait as long as an endpoint's fault has it, and return the fault."""
        with self.lock:
            fault = self._faults.get(endpoint) or self._faults.get("*")
            if fault is None or fault.times <= 0:
                return _NO_FAULT
            fault.times -= 1
            self.suffered[endpoint] += 1
        self._closing.wait(fault.delay)
        while fault.hang and fault in self._faults.values() and not self._closing.wait(0.05):
            pass
        return fault

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
        endpoint = endpoint or _operation(json.loads(body))
        owner = self.owner
        with owner.lock:
            owner.seen[endpoint] += 1
        fault = owner.misbehave(endpoint)
        if fault.drop:
            self.close_connection = True
        elif fault.status:
            self._reply({"errors": [{"message": "injected fault"}]}, fault.status)
        elif owner.is_gone(path, body):
            self._reply({"errors": [{"message": "the run was deleted"}]}, 410)
        else:
            with owner.lock:
                reply = answer(path, body)
            self.close_connection = fault.lost
            if not fault.lost:
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
        kind, owner, name = path[0], path[1], "/".join(path[2:])
        if kind == "upload":
            self.owner.run(owner).files[name] = body
        elif kind == "artifact":
            self.owner.artifacts[int(owner)].files[name] = body
        else:
            self.owner.artifacts[int(owner)].manifest = json.loads(body)
        return {}

    def _file_stream(self, path: list[str], body: bytes) -> dict[str, Any]:
        run = self.owner.run(path[3])
        message = json.loads(body)
        for name, chunk in (message.get("files") or {}).items():
            run.put(name, chunk["offset"], chunk["content"])
        if message.get("complete"):
            run.complete, run.exit_code = True, message.get("exitcode")
        return {"limits": {}}

    def _graphql(self, _path: list[str], body: bytes) -> dict[str, Any]:
        request = json.loads(body)
        answer = _OPERATIONS.get(_operation(request))
        if answer is None:
            return {"errors": [{"message": f"unknown operation {_operation(request)}"}]}
        return {"data": answer(self.owner, request.get("variables") or {})}


def _operation(request: dict[str, Any]) -> str:
    """Return a GraphQL request's operation: named beside the query, or in it."""
    found = re.match(r"\s*(?:query|mutation)\s+(\w+)", request.get("query") or "")
    return request.get("operationName") or (found.group(1) if found else "graphql")


def _asks_for(body: bytes, operation: str, runs: set[str]) -> bool:
    """Tell whether a request is a GraphQL operation on one of the runs."""
    if not runs or operation.encode() not in body:
        return False
    request = json.loads(body)
    variables = request.get("variables") or {}
    return _operation(request) == operation and (variables.get("name") or variables.get("run")) in runs


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


def _alert(server: WandBServer, variables: dict[str, Any]) -> dict[str, Any]:
    server.alerts.append({key: variables[key] for key in ("runName", "title", "text", "severity", "waitDuration")})
    return {"notifyScriptableRunAlert": {"success": True}}


def _artifact_type(server: WandBServer, variables: dict[str, Any]) -> dict[str, Any]:
    name = variables["name"].partition(":")[0]
    types = [one.type for one in server.artifacts if one.name == name]
    return {"project": {"artifact": {"artifactType": {"name": types[-1]}} if types else None}}


def _create_artifact(server: WandBServer, variables: dict[str, Any]) -> dict[str, Any]:
    given = variables["input"]
    found = [one for one in server.artifacts if (one.name, one.digest) == (_collection(given), given["digest"])]
    made = found[0] if found else ServerArtifact(
        id=str(len(server.artifacts)),
        run=given["runName"],
        type=given["artifactTypeName"],
        name=_collection(given),
        digest=given["digest"],
        description=given["description"] or "",
        metadata=json.loads(given["metadata"] or "{}"),
        tags=[tag["tagName"] for tag in given.get("tags") or []],
    )  # fmt: skip
    made.clients.append(given["clientID"])
    made.aliases = sorted({*made.aliases, *(alias["alias"] for alias in given["aliases"])})
    if not found:
        server.artifacts.append(made)
    state = "COMMITTED" if made.committed else "PENDING"
    return {"createArtifact": {"artifact": {"id": made.id, "state": state, "artifactSequence": {}}}}


def _collection(given: dict[str, Any]) -> str:
    return (given.get("artifactCollectionNames") or [given["artifactCollectionName"]])[0]


def _create_manifest(server: WandBServer, variables: dict[str, Any]) -> dict[str, Any]:
    return {"createArtifactManifest": _manifest(server, variables["artifactID"])}


def _update_manifest(server: WandBServer, variables: dict[str, Any]) -> dict[str, Any]:
    return {"updateArtifactManifest": _manifest(server, variables["artifactManifestID"])}


def _manifest(server: WandBServer, artifact: str) -> dict[str, Any]:
    file = {"id": artifact, "uploadUrl": f"{server.url}/manifest/{artifact}/wandb_manifest.json", "uploadHeaders": []}
    return {"artifactManifest": {"id": artifact, "file": file}}


def _create_artifact_files(server: WandBServer, variables: dict[str, Any]) -> dict[str, Any]:
    nodes = [
        {
            "storagePath": f"{file['artifactID']}/{file['name']}",
            "uploadUrl": f"{server.url}/artifact/{file['artifactID']}/{quote(file['name'])}",
            "uploadHeaders": [],
            "uploadMultipartUrls": None,
            "artifact": {"id": file["artifactID"]},
        }
        for file in variables["input"]["artifactFiles"]
    ]
    return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}


def _commit_artifact(server: WandBServer, variables: dict[str, Any]) -> dict[str, Any]:
    made = server.artifacts[int(variables["artifactID"])]
    made.committed = True
    return {"commitArtifact": {"artifact": {"id": made.id, "digest": made.digest}}}


def _use_artifact(server: WandBServer, variables: dict[str, Any]) -> dict[str, Any]:
    made = server.artifacts[int(variables["input"]["artifactID"])]
    made.used = True
    return {"useArtifact": {"artifact": {"id": made.id}}}


def _link_model(server: WandBServer, variables: dict[str, Any]) -> dict[str, Any]:
    made = next(one for one in server.artifacts if variables["artifact"] in one.clients)
    made.models.append(f"{variables['entity']}/{variables['project']}/{variables['model']}")
    return {"linkArtifact": {"versionIndex": 0}}


_OPERATIONS = {
    "LinkModel": _link_model,
    "NotifyScriptableRunAlert": _alert,
    "ArtifactType": _artifact_type,
    "CreateArtifact": _create_artifact,
    "CreateArtifactManifest": _create_manifest,
    "UpdateArtifactManifest": _update_manifest,
    "CreateArtifactFiles": _create_artifact_files,
    "CommitArtifact": _commit_artifact,
    "UseArtifact": _use_artifact,
    "Viewer": _viewer,
    "ServerFeaturesQuery": _features,
    "UpsertBucket": _upsert,
    "RunResumeStatus": _resume_status,
    "RunPosition": _resume_status,
    "CreateRunFiles": _create_files,
    "RunStoppedStatus": _stopped,
}
