"""A model as it crosses between the server and a script: a head in msgpack, and its tensors as a safetensors file.

Nothing here imports torch unless the caller has it loaded or asks for its tensors: a script that trains with numpy, or
with a library of its own, pays for none.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import msgspec

from eventbus.errors import BadInputError, DecodeError
from training._wire import UNREADABLE, ModelHead
from training.fl_model import FLModel, ParamsType

if TYPE_CHECKING:
    from training.plan import ParamsFormat

PARAMS, OPTIMIZER_PARAMS = "p:", "o:"
"""What an entry's name begins with."""

TORCH, NUMPY = "pt", "np"
"""What a payload was made from: safetensors' own words, in the file's metadata."""

_TRAVELS = "tensors, numpy arrays, numbers and booleans travel"
_SAYS_NO = (KeyError, NotImplementedError, OverflowError, RuntimeError, TypeError, ValueError)
"""What torch, numpy and safetensors raise for what they can't take."""

MAX_DEPTH = 32
"""Dicts and lists within each other, in metrics and meta; one that contains itself ends here too."""

_LEAST_INT, _MOST_INT = -(2**63), 2**64 - 1  # what msgpack can say


class _Metadata(msgspec.Struct, frozen=True):
    """What a payload says of itself, beside its tensors.

    Attributes:
        format: `pt` or `np`.
        names: The entries in the sender's order, as JSON: safetensors keeps an order of its own.
    """

    format: str = TORCH
    names: str = "[]"


class _FileHead(msgspec.Struct, frozen=True):
    metadata: _Metadata = msgspec.field(name="__metadata__", default_factory=_Metadata)


# --- to the wire -----------------------------------------------------------------------------------------------------


def payload_of(model: FLModel) -> tuple[ModelHead, bytes]:
    """Return a model's head, and its tensors as the bytes of a safetensors file.

    Params may be tensors of any dense kind, on any device, tied to each other or not contiguous; numpy arrays and
    scalars; Python's numbers, which become arrays of shape (). In metrics and meta, whatever has a `tolist()` (numpy's
    scalars and arrays, tensors) becomes numbers and lists, and a number that is a key becomes text.

    Raises:
        BadInputError: A value can't travel: the message names it, and says what could.
    """
    entries = _entries(PARAMS, "params", model.params)
    entries |= _entries(OPTIMIZER_PARAMS, "optimizer_params", model.optimizer_params)
    kind = model.params_type or (None if model.params is None else ParamsType.FULL)
    head = ModelHead(
        params_type=None if kind is None else ParamsType(kind).value,
        has_params=model.params is not None,
        has_optimizer_params=model.optimizer_params is not None,
        metrics=None if model.metrics is None else _plain_dict("metrics", model.metrics),
        start_round=model.start_round,
        current_round=model.current_round,
        total_rounds=model.total_rounds,
        meta=_plain_dict("meta", model.meta or {}),
    )
    return head, _encode(entries) if entries else b""


def _entries(prefix: str, what: str, params: Mapping[Any, object] | None) -> dict[str, object]:
    for name in params or ():
        if not isinstance(name, str):
            raise BadInputError(
                f"{what} has the key {name!r}, a {type(name).__name__}: name what you send, {{str: ...}}"
            )
    return {prefix + name: value for name, value in (params or {}).items()}


def _encode(entries: Mapping[str, object]) -> bytes:
    torch = sys.modules.get("torch")
    if torch is not None and any(isinstance(value, torch.Tensor) for value in entries.values()):
        return _save(entries, _Tensors(), TORCH)
    return _save(entries, _array, NUMPY)


def _save(entries: Mapping[str, object], convert: Callable[[object], Any], made_from: str) -> bytes:
    converted = {name: _converted(name, value, convert) for name, value in entries.items()}
    metadata = {"format": made_from, "names": json.dumps(list(entries))}
    try:
        return _saver(made_from)(converted, metadata)
    except Exception as error:  # border: safetensors has an error of its own, derived from Exception alone
        for name, value in converted.items():
            _probe(name, value, made_from)
        raise BadInputError(f"the model can't be sent: {error}") from error


def _converted(name: str, value: object, convert: Callable[[object], Any]) -> Any:
    try:
        return convert(value)
    except _SAYS_NO as error:
        raise _refusal(name, value, error) from error


def _probe(name: str, value: object, made_from: str) -> None:
    """Raise if this one is what could not be saved."""
    try:
        _saver(made_from)({name: value}, None)
    except Exception as error:  # border: safetensors has an error of its own, derived from Exception alone
        raise _refusal(name, value, error) from error


def _saver(made_from: str) -> Callable[[dict[str, Any], dict[str, str] | None], bytes]:
    if made_from == NUMPY:
        from safetensors.numpy import save as save_arrays

        return save_arrays
    from safetensors.torch import save as save_tensors

    return save_tensors


def _refusal(name: str, value: object, error: Exception) -> BadInputError:
    what = "params" if name.startswith(PARAMS) else "optimizer_params"
    kind = getattr(value, "dtype", None) or type(value).__name__
    return BadInputError(f"{what}[{name[2:]!r}] ({kind}) can't be sent: {_TRAVELS} ({error})")


class _Tensors:
    """Makes tensors that safetensors takes: dense, on the CPU, no two in the same memory."""

    def __init__(self) -> None:
        self._storages: set[int] = set()

    def __call__(self, value: object) -> Any:
        import torch

        if not isinstance(value, torch.Tensor):
            return torch.from_numpy(_array(value).copy())  # pyright: ignore[reportUnknownMemberType]
        if value.layout is not torch.strided:
            raise TypeError("it is sparse: send to_dense()")
        tensor = value.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        if storage in self._storages:  # tied layers, or views of one tensor
            return tensor.clone()
        self._storages.add(storage)
        return tensor


def _array(value: object) -> Any:
    """Return an array in one piece, in this machine's order of bytes."""
    import numpy as np

    if not isinstance(value, np.ndarray | np.generic | bool | int | float):
        raise TypeError(f"a {type(value).__name__}")
    array = cast("np.ndarray[Any, np.dtype[Any]]", np.asarray(value))
    return array.astype(array.dtype.newbyteorder("="), order="C", copy=False)


# --- metrics and meta ------------------------------------------------------------------------------------------------


def _plain_dict(where: str, values: Mapping[Any, object], depth: int = MAX_DEPTH) -> dict[str, Any]:
    inner = _inwards(where, depth)
    return {_key(where, key): _plain(f"{where}[{key!r}]", value, inner) for key, value in values.items()}


def _inwards(where: str, depth: int) -> int:
    """Return how many more levels there may be within this one."""
    if not depth:
        outermost = where[: where.find("]") + 1]
        raise BadInputError(f"{outermost} is nested deeper than {MAX_DEPTH} levels, or contains itself: flatten it")
    return depth - 1


def _key(where: str, key: object) -> str:
    if isinstance(key, str):
        return str.__str__(key)
    if isinstance(key, int):  # classes are often numbers
        return str(int(key))
    plain = getattr(key, "item", None)
    if callable(plain) and isinstance(number := plain(), int):
        return str(number)
    raise BadInputError(f"{where} has the key {key!r}, a {type(key).__name__}: keys are text or whole numbers")


def _plain(where: str, value: object, depth: int) -> Any:
    """Return a value as JSON has it."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return float(value)  # numpy's float64 is one
    if isinstance(value, str):
        return str.__str__(value)  # of an enum's member its value
    if isinstance(value, int):
        return _integer(where, value)
    if isinstance(value, Mapping):
        return _plain_dict(where, cast("Mapping[Any, object]", value), depth)
    return _plain_list(where, value, depth)


def _integer(where: str, value: int) -> int:
    if not _LEAST_INT <= value <= _MOST_INT:
        raise BadInputError(f"{where} is {value}: whole numbers of up to 64 bits travel")
    return int(value)


def _plain_list(where: str, value: object, depth: int) -> Any:
    if isinstance(value, list | tuple):
        members = cast("Iterable[object]", value)
        inner = _inwards(where, depth)
        return [_plain(f"{where}[{index}]", member, inner) for index, member in enumerate(members)]
    to_list = getattr(value, "tolist", None)
    if callable(to_list):
        return _plain(where, to_list(), depth)
    raise BadInputError(
        f"{where} is a {type(value).__name__}: numbers, texts, and lists and dicts of them travel; of what computes a "
        "metric, send what it has computed"
    )


# --- from the wire ---------------------------------------------------------------------------------------------------


def model_from(head: ModelHead, payload: bytes, params_format: ParamsFormat) -> FLModel:
    """Return the model of a head and its payload.

    Args:
        head: What is known of it.
        payload: The safetensors file; empty where there are no tensors.
        params_format: `pytorch`: torch tensors on the CPU. `numpy`: arrays, of which bfloat16 is widened to float32,
            since numpy has no such type. `raw`: whichever of them the sender had.

    Returns:
        The model; its tensors are its own, to be written into at will, in the order in which they were sent.

    Raises:
        DecodeError: These bytes are not a whole safetensors file, or the head is not that of a model.
    """
    entries = _decode(payload, params_format) if payload else {}
    try:
        return FLModel(
            params_type=head.params_type if head.has_params else None,
            params=_with(PARAMS, entries) if head.has_params else None,
            optimizer_params=_with(OPTIMIZER_PARAMS, entries) if head.has_optimizer_params else None,
            metrics=None if head.metrics is None else _plain_dict("metrics", head.metrics),
            start_round=head.start_round,
            current_round=head.current_round,
            total_rounds=head.total_rounds,
            meta=_plain_dict("meta", head.meta),
        )
    except BadInputError as error:
        raise DecodeError(f"not a model: {error}") from error


def _with(prefix: str, entries: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in entries.items() if name.startswith(prefix)}


def _decode(payload: bytes, params_format: ParamsFormat) -> dict[str, Any]:
    metadata = _metadata(payload)
    wants_arrays = params_format == "numpy" or (params_format == "raw" and metadata.format == NUMPY)
    try:
        entries = _arrays(payload) if wants_arrays else _tensors(payload)
        order: list[str] = json.loads(metadata.names)
        return {name: entries.pop(name) for name in order} | entries
    except Exception as error:  # border: safetensors has an error of its own, derived from Exception alone
        raise DecodeError(f"these {len(payload)} bytes can't be read as safetensors: {error!r}") from error


def _metadata(payload: bytes) -> _Metadata:
    """Read a file's metadata: 8 bytes with the length of the head, little-endian, then the head in JSON."""
    try:
        return msgspec.json.decode(payload[8 : 8 + int.from_bytes(payload[:8], "little")], type=_FileHead).metadata
    except UNREADABLE as error:
        raise DecodeError(f"these {len(payload)} bytes are not a safetensors file: {error}") from error


def _tensors(payload: bytes) -> dict[str, Any]:
    from safetensors.torch import load

    return dict(load(payload))


def _arrays(payload: bytes) -> dict[str, Any]:
    from safetensors import deserialize  # pyright: ignore[reportUnknownVariableType] - its stub names no types

    stored: list[tuple[str, dict[str, Any]]] = deserialize(payload)
    return {name: _stored_array(**entry) for name, entry in stored}


def _stored_array(dtype: str, shape: list[int], data: bytearray) -> Any:
    import numpy as np

    if dtype == "BF16":  # a float32 without its lower half
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").reshape(shape)
    if dtype not in _NUMPY_TYPES:
        raise TypeError(f"numpy has no {dtype}: let the script have its params as pytorch")
    return np.frombuffer(data, _NUMPY_TYPES[dtype]).reshape(shape)


_NUMPY_TYPES = {
    "BOOL": "?", "I8": "i1", "U8": "u1", "I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4", "I64": "<i8",
    "U64": "<u8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<c8",
}  # fmt: skip
