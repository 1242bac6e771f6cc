"""What a training script and its site's link say to each other, over one Unix socket.

A frame is: length of the header (4 bytes), length of the payload (8 bytes), both big-endian; the header, a tagged
message in msgpack; the payload, a safetensors file or nothing. The script speaks first (`Hello`) and gets `Welcome`;
from then on it is sent tasks, answers each with one `Result` of the same `task`, and is told `End` when there are no
more. Whoever is sent something it can't read closes the connection and says why.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from eventbus.errors import BadInputError, DecodeError

ENVIRONMENT = "TRACKBUS_CLIENT"
"""Environment variable that names a script's link: a `LinkAddress` as JSON."""

PREFIX = struct.Struct(">IQ")

MAX_HEADER_BYTES = 4 * 1024 * 1024
"""Metrics and meta of one model: far more than anybody sends, and no reason to run out of memory."""


class LinkAddress(msgspec.Struct, frozen=True, kw_only=True):
    """How a script finds its link: known to the processes of one site alone.

    Attributes:
        socket: Path of the socket.
        token: What proves that the script is the one that was started.
        site: Name of the site.
        job: Name of the job.
    """

    socket: str
    token: str
    site: str
    job: str


class Hello(msgspec.Struct, tag="hello", frozen=True, kw_only=True):
    """The script is there: the first frame."""

    token: str
    rank: int = 0


class Welcome(msgspec.Struct, tag="welcome", frozen=True, kw_only=True):
    """What the script is told first.

    Attributes:
        site: Its site.
        job: Name of the job.
        params_format: What it gets params as: `pytorch`, `numpy` or `raw`.
        transfer: `FULL` or `DIFF`: see `ScriptPlan`.
        config: What `get_config()` returns.
    """

    site: str
    job: str
    params_format: str = "pytorch"
    transfer: str = "FULL"
    config: dict[str, Any] = {}


class ModelHead(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An `FLModel` without its tensors: those are the payload.

    A payload's entry is called `p:<name>` for params, `o:<name>` for optimizer params.
    """

    params_type: str | None = None
    has_params: bool = False
    has_optimizer_params: bool = False
    metrics: dict[str, Any] | None = None
    start_round: int | None = 0
    current_round: int | None = None
    total_rounds: int | None = None
    meta: dict[str, Any] = {}


class TaskSent(msgspec.Struct, tag="task", frozen=True, kw_only=True):
    """The script is asked to do something."""

    task: int
    name: str
    model: ModelHead


class Result(msgspec.Struct, tag="result", frozen=True, kw_only=True):
    """The script's answer to a task."""

    task: int
    model: ModelHead


class End(msgspec.Struct, tag="end", frozen=True, kw_only=True):
    """There are no more tasks: `is_running()` is False from now on.

    Attributes:
        reason: Why, where that is not simply that the job is done.
    """

    reason: str = ""


class Leave(msgspec.Struct, tag="leave", frozen=True, kw_only=True):
    """The script goes, by its own will (`shutdown`) or since something is wrong (`error`)."""

    error: str = ""


Message = Hello | Welcome | TaskSent | Result | End | Leave

UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)
"""What msgspec raises for bytes that it can't read."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def pack(message: Message, payload_bytes: int = 0) -> bytes:
    """Return the begin of a frame: lengths and header. The payload follows it.

    Raises:
        BadInputError: The header is too long, or holds text that has no UTF-8.
    """
    try:
        header = _encoder.encode(message)
    except UnicodeEncodeError as error:
        raise BadInputError(f"a text can't be sent: {error}") from error
    if len(header) > MAX_HEADER_BYTES:
        raise BadInputError(
            f"metrics and meta take {len(header)} bytes; {MAX_HEADER_BYTES} may travel: send large values as params"
        )
    return PREFIX.pack(len(header), payload_bytes) + header


def unpack_prefix(data: bytes) -> tuple[int, int]:
    """Return the lengths of header and payload.

    Raises:
        DecodeError: The header is longer than any that we write.
    """
    header, payload = PREFIX.unpack(data)
    if header > MAX_HEADER_BYTES:
        raise DecodeError(f"a header of {header} bytes")
    return header, payload


def unpack(header: bytes) -> Message:
    """Return the message of a frame's header.

    Raises:
        DecodeError: It is none.
    """
    try:
        return _decoder.decode(header)
    except UNREADABLE as error:
        raise DecodeError(f"not a message: {error}") from error
