"""Records as bytes: encoded once at the caller, moved as bytes, decoded at the end.

A record is a msgpack array `[type version, type name, topic, scope, run, time in ns, fields]`. What never changes
within a partition stands once in its header. Decoding is strict: known type and version, no extra fields, size checked
before anything is parsed, never pickle.
"""

from __future__ import annotations

from typing import Any

import msgspec
from pydantic import BaseModel

from eventbus._event import Envelope, Event, Origin, registered_event
from eventbus._topic import Scope
from eventbus.errors import BadInputError, DecodeError

MAX_RECORD_BYTES = 1 << 20
"""A larger record is refused: payloads of this size belong into files."""


class Frame(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """A record of which only the address is parsed; the fields stay bytes."""

    version: int
    type: str
    topic: str
    scope: int
    run: str
    time_ns: int
    fields: msgspec.Raw

    def in_scope(self) -> Scope:
        """Return how far the record travels.

        Raises:
            DecodeError: The stored number is none of ours.
        """
        try:
            return Scope(self.scope)
        except ValueError as error:
            msg = f"unknown scope {self.scope}"
            raise DecodeError(msg) from error


def _encode_part(value: object) -> Any:
    if isinstance(value, BaseModel):
        return value.__dict__
    msg = f"{type(value).__name__} can't be encoded"
    raise TypeError(msg)


_encode = msgspec.msgpack.Encoder(enc_hook=_encode_part).encode
_decode_frame = msgspec.msgpack.Decoder(Frame).decode
_decode_fields = msgspec.msgpack.Decoder(dict[str, Any]).decode


def encode(event: Event, topic: str, scope: Scope, run: str, time_ns: int) -> bytes:
    """Encode one record.

    Raises:
        BadInputError: A value can't be encoded (an integer over 64 bits, say) or the record is too large.
    """
    cls = type(event)
    if not (isinstance(run, str) and isinstance(time_ns, int)):  # pyright: ignore[reportUnnecessaryIsInstance] - callers are not all checked
        msg = f"run= takes text and time_ns= an integer, not {run!r} and {time_ns!r}"
        raise BadInputError(msg)
    try:
        body = _encode((cls.event_version, cls.event_name, topic, scope.value, run, time_ns, event.__dict__))
    except (TypeError, OverflowError, ValueError, RecursionError) as error:
        msg = f"{cls.event_name} can't be recorded: {error}"
        raise BadInputError(msg) from error
    if len(body) > MAX_RECORD_BYTES:
        msg = f"{cls.event_name} takes {len(body)} bytes; at most {MAX_RECORD_BYTES} fit in a record: log it in parts"
        raise BadInputError(msg)
    return body


def read_frame(body: bytes) -> Frame:
    """Parse a record's address, not its fields.

    Raises:
        DecodeError: The bytes are no record, or too many.
    """
    if len(body) > MAX_RECORD_BYTES:
        msg = f"record of {len(body)} bytes; at most {MAX_RECORD_BYTES} are allowed"
        raise DecodeError(msg)
    try:
        return _decode_frame(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        msg = f"not a record: {error}"
        raise DecodeError(msg) from error


def decode_frame(frame: Frame, origin: Origin, seq: int) -> Envelope[Event]:
    """Decode a record whose address is already parsed.

    Raises:
        DecodeError: Its type or version is unknown, or its fields don't validate.
    """
    cls = registered_event(frame.type)
    if cls is None or frame.version != cls.event_version:
        msg = f"unknown event type {frame.type!r} version {frame.version}"
        raise DecodeError(msg)
    try:
        event = cls.model_validate(_decode_fields(frame.fields))
    except Exception as error:  # border: a validator may raise anything at what it made itself
        msg = f"{frame.type} does not validate: {error}"
        raise DecodeError(msg) from error
    return Envelope(event, frame.topic, frame.in_scope(), frame.run, frame.time_ns, origin, seq)


def decode(body: bytes, origin: Origin, seq: int) -> Envelope[Event]:
    """Decode one record that `origin` wrote as its number `seq`.

    Raises:
        DecodeError: The bytes are not a record of a known type and version.
    """
    return decode_frame(read_frame(body), origin, seq)
