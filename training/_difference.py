"""What a site's weights differ by from those that it was sent."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from eventbus.errors import BadInputError


def difference(trained: Mapping[str, Any], received: Mapping[str, Any]) -> dict[str, Any]:
    """Return trained minus received weights, by name; whole numbers and booleans as int64, so that none wraps around.

    Args:
        trained: Tensors or arrays by name; some of those received, or all.
        received: What they are measured from.

    Raises:
        BadInputError: A name was not received, or an entry has another shape: the message names it.
    """
    unknown = [name for name in trained if name not in received]
    if unknown:
        raise BadInputError(
            f"params {', '.join(map(repr, unknown))} have no difference: the model that was received lacks them; "
            "leave them out, or have whole weights sent (params_transfer_type FULL)"
        )
    return {name: _minus(name, value, received[name]) for name, value in trained.items()}


def _minus(name: str, trained: Any, received: Any) -> Any:
    torch = sys.modules.get("torch")
    with_torch = torch is not None and (isinstance(trained, torch.Tensor) or isinstance(received, torch.Tensor))
    convert = _tensor if with_torch else _array
    try:
        new, old = convert(trained), convert(received)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInputError(
            f"params[{name!r}] is a {type(trained).__name__}: it has no difference ({error})"
        ) from error
    if new.shape != old.shape:
        raise BadInputError(f"params[{name!r}] has the shape {tuple(new.shape)}; {tuple(old.shape)} was received")
    return new - old


def _tensor(value: Any) -> Any:
    import torch

    tensor = torch.as_tensor(value).detach().cpu()
    return tensor if tensor.is_floating_point() or tensor.is_complex() else tensor.long()


def _array(value: Any) -> Any:
    import numpy as np

    array = np.asarray(value)
    return array if np.issubdtype(array.dtype, np.inexact) else array.astype(np.int64)
