"""How a model computes, as TensorFlow's graph: torch's own helper traces it, at the caller.

The one place where a writer imports torch and tensorboard, and only when `add_graph` is called: whoever calls it holds
a model of torch, and what the helper makes of a trace can't be told from outside.
"""

from __future__ import annotations

from typing import Any

from eventbus.errors import BadInputError, MissingExtraError


def traced(model: Any, inputs: Any, *, verbose: bool, strict: bool) -> tuple[bytes, bytes]:
    """Trace a model.

    Returns:
        TensorFlow's `GraphDef` and `RunMetadata`, serialised.

    Raises:
        BadInputError: The model can't be traced with these inputs.
        MissingExtraError: torch or tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import _pytorch_graph
    except ImportError as error:
        raise MissingExtraError("add_graph needs torch and tensorboard: pip install 'trackbus[tensorboard]'") from error
    helper: Any = _pytorch_graph
    try:
        graph, profile = helper.graph(model, inputs, verbose, strict)
    except Exception as error:  # border: a user's model runs here
        raise BadInputError(f"the model can't be traced with this input: {error}") from error
    return graph.SerializeToString(), profile.SerializeToString()
