"""Arrays and tensors, whatever library they come from, as numpy arrays and as what travels of them.

Neither numpy nor any other package is imported before a call needs it: whoever logs numbers alone has none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from eventbus.errors import BadInputError, MissingExtraError
from eventbus.media import Array
from writers._keys import shown

if TYPE_CHECKING:
    from eventbus.blobs import BlobStore

NUMBER_KINDS = "biufc"
"""Kinds of numpy's types that are numbers."""

MEDIA = frozenset({"numpy", "PIL"})
"""Packages that the extra `media` installs."""

_CONVERSION_ERRORS = (TypeError, ValueError, OverflowError, RuntimeError, AttributeError)  # torch raises the last two


def package(name: str) -> Any:
    """Return a package, or a module of one, that is imported only where it is needed.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        top = name.partition(".")[0]
        wanted = "trackbus[media]" if top in MEDIA else top
        raise MissingExtraError(f"this call needs the package {top}: pip install '{wanted}'") from error


def array_of(key: object, value: object) -> Any:
    """Return numbers as a numpy array: an array, a tensor of any device, a nested list, or one number.

    What numpy has no type for (bfloat16) becomes float32, which has room for all of it.

    Raises:
        BadInputError: It is none of these, or holds other things than numbers.
        MissingExtraError: numpy is not installed.
    """
    numpy = package("numpy")
    try:
        array = numpy.asarray(_on_the_host(value))
    except _CONVERSION_ERRORS as error:
        raise BadInputError(f"{shown(key)} is a {type(value).__name__} that gives no array: {error}") from error
    if array.dtype.kind not in NUMBER_KINDS:
        what = "None" if value is None else f"a {type(value).__name__} of {array.dtype}"
        raise BadInputError(f"{shown(key)} is {what}, not of numbers: pass an array, a tensor or a nested list of them")
    return array


def real_array_of(key: object, value: object) -> Any:
    """Return numbers as a numpy array of real ones.

    Raises:
        BadInputError: They are not, or are none at all.
        MissingExtraError: numpy is not installed.
    """
    array = array_of(key, value)
    if array.dtype.kind == "c":
        raise BadInputError(f"{shown(key)} holds complex numbers: pass its real part, or its magnitude")
    if array.size == 0:
        raise BadInputError(f"{shown(key)} is empty, of shape {array.shape}: there is nothing to log")
    return array


def kept_array(store: BlobStore, array: Any) -> Array:
    """Keep a numpy array in the blob store and return what an event says of it.

    Raises:
        RefusedError: The environment does not allow it: the disk is full, a quota is reached.
    """
    numpy = package("numpy")
    plain = numpy.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    blob = store.put(plain.reshape(-1).view("u1").data)
    return Array(blob=blob, dtype=array.dtype.name, shape=list(array.shape))


def _on_the_host(value: Any) -> Any:
    """Return a tensor of torch as a tensor that numpy can take; anything else as it is."""
    if not hasattr(value, "detach"):
        return value
    tensor = value.detach().cpu()
    tensor = tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor
    return tensor.numpy(force=True) if hasattr(tensor, "numpy") else tensor
