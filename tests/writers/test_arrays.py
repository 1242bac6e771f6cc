import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eventbus.blobs import BlobStore
from eventbus.errors import BadInputError, MissingExtraError
from writers._arrays import array_of, kept_array


@pytest.mark.parametrize(
    ("value", "dtype", "shape"),
    [
        (torch.ones(2, 3, requires_grad=True), "float32", (2, 3)),
        (torch.ones(2, dtype=torch.bfloat16), "float32", (2,)),
        (torch.ones(2, dtype=torch.half), "float16", (2,)),
        (torch.tensor(1 + 2j).conj(), "complex64", ()),
        (np.int8(3), "int8", ()),
        ([[1, 2], [3, 4]], "int64", (2, 2)),
        (True, "bool", ()),
        (0.5, "float64", ()),
    ],
)
def test_numbers_of_any_library_become_an_array(value: Any, dtype: str, shape: tuple[int, ...]) -> None:
    array = array_of("x", value)

    assert (array.dtype.name, array.shape) == (dtype, shape)


@pytest.mark.parametrize("value", [None, "text", object(), [1, "a"], [[1], [1, 2]], b"bytes", np.array(["a"])])
def test_what_holds_no_numbers_is_refused(value: Any) -> None:
    with pytest.raises(BadInputError, match=r"^'x' is "):
        array_of("x", value)


@pytest.mark.parametrize(
    "array",
    [np.arange(6, dtype=">i4").reshape(2, 3), np.eye(3)[:, ::2], np.array(True), np.zeros((0, 3)), np.array(1j)],
    ids=["big endian", "strided", "one", "none", "complex"],
)
def test_a_kept_array_is_read_back(tmp_path: Path, array: np.ndarray[Any, Any]) -> None:
    store = BlobStore(tmp_path)

    kept = kept_array(store, array)

    dtype = np.dtype(kept.dtype).newbyteorder("<")
    assert np.array_equal(np.frombuffer(store.read(kept.blob), dtype).reshape(kept.shape), array)
    assert kept.blob.size == array.nbytes


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)

    with pytest.raises(MissingExtraError, match=r"numpy: pip install 'trackbus\[media\]'"):
        array_of("x", [1])
