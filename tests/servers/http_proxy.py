"""An HTTP proxy on the loopback that passes requests on to a real server, and spoils those that it is told to.

with HttpProxy(server.port) as proxy:
    with proxy.fault("runs/log-batch", Lost()):
        ...                                     # the server stores the batches, the client never hears of it
    assert proxy.spoilt(fault) == 3
"""

from __future__ import annotations

import http.client
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple, Self, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

UPSTREAM_SECONDS = 60.0
_HOP_HEADERS = {"connection", "keep-alive", "transfer-encoding", "content-length", "server", "date"}


class Request(NamedTuple):
    """One request as the proxy saw it: when (monotonic), what, and whether it was spoilt."""

    time: float
    path: str
    spoilt: bool


@dataclass(eq=False)
class Fault:
    """How requests are spoilt; of several settings the first one counts.

    Attributes:
        path: The requests whose path contains this.
        times: How many of them.
        silent: Take the request and never answer it, until the fault is over.
        delay: Seconds after which it is passed on; its client may have given up.
        lost: Pass it on, and close the connection without the answer.
        cut: Pass it on, and close the connection in the middle of the answer's body.
        status: Answer it with this status.
        body: Body of that answer.
        headers: Its headers.
    """

    path: str = ""
    times: int = 1 << 30
    silent: bool = False
    delay: float = 0.0
    lost: bool = False
    cut: bool = False
    status: int = 0
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    over: threading.Event = field(default_factory=threading.Event)


class HttpProxy:
    """Runs in threads of this process between `with` and its end.

    Attributes:
        requests: All it has seen.
    """

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.requests: list[Request] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._http: _Http | None = None
        self.port = 0

    @property
    def uri(self) -> str:
        """Address of the proxy."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        for fault in self._faults:
            fault.over.set()
        self.refuse()

    def listen(self) -> None:
        """Take connections, always on the same port."""
        self._http = _Http(("127.0.0.1", self.port), _Handler)
        self._http.owner = self
        self.port = self._http.server_port
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def refuse(self) -> None:
        """Close the port and all connections: who connects is refused."""
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http.drop_connections()
            self._http = None

    @contextmanager
    def fault(self, path: str = "", **settings: object) -> Iterator[Fault]:
        """Spoil requests within the block."""
        fault = Fault(path, **settings)  # type: ignore[arg-type] - the fields of Fault
        with self._lock:
            self._faults.append(fault)
        try:
            yield fault
        finally:
            with self._lock:
                self._faults.remove(fault)
            fault.over.set()

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Refuse connections within the block."""
        self.refuse()
        try:
            yield
        finally:
            self.listen()

    def spoilt(self, path: str = "") -> int:
        """Count the spoilt requests whose path contains `path`."""
        return sum(one.spoilt and path in one.path for one in self.requests)

    def take(self, path: str) -> Fault | None:
        """Note a request and return what spoils it."""
        with self._lock:
            found = next((fault for fault in self._faults if fault.path in path and fault.times > 0), None)
            if found is not None:
                found.times -= 1
            self.requests.append(Request(time.monotonic(), path, found is not None))
            return found


class _Http(ThreadingHTTPServer):
    owner: HttpProxy
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type] - address and handler
        self.connections: set[object] = set()

    def process_request(self, request: object, client_address: object) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)  # type: ignore[arg-type] - a socket

    def shutdown_request(self, request: object) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)  # type: ignore[arg-type] - a socket

    def drop_connections(self) -> None:
        for connection in list(self.connections):
            self.shutdown_request(connection)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that give up are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:  # the client has given up
            self.close_connection = True

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        owner = cast("_Http", self.server).owner
        fault = owner.take(self.path)
        if fault is not None and fault.silent:
            fault.over.wait()
            self.close_connection = True
        elif fault is not None and fault.status:
            self._answer(fault.status, fault.headers, fault.body)
        else:
            self._pass_on(owner, body, fault or Fault())

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815 - the names that http.server calls

    def _pass_on(self, owner: HttpProxy, body: bytes, fault: Fault) -> None:
        if fault.delay:
            fault.over.wait(fault.delay)
        connection = http.client.HTTPConnection("127.0.0.1", owner.upstream, timeout=UPSTREAM_SECONDS)
        try:
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):  # the server is dead: so is this connection
            self.close_connection = True
            return
        finally:
            connection.close()
        if fault.lost:
            self.close_connection = True
            return
        self._answer(answer.status, dict(answer.getheaders()), content, cut=fault.cut)

    def _answer(self, status: int, headers: dict[str, str], body: bytes, *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in _HOP_HEADERS:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = self.close_connection or cut

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's own name
        """Say nothing."""
