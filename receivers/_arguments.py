"""What a receiver of a user's own was made with, so that its worker makes it again."""

from __future__ import annotations

import inspect
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, cast

from eventbus.errors import ConfigurationError
from receivers._receiver import ReceiverOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)

_MISSING = object()


def kept_arguments(
    receiver: object, given: tuple[object, ...], options: Mapping[str, object]
) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of a constructor's arguments: what the object keeps under their names.

    Args:
        receiver: The object.
        given: Positional arguments that it was made with.
        options: The others.

    Raises:
        ConfigurationError: It does not keep one, or one has no name to be given by again.
    """
    kind = type(receiver)
    signature = inspect.signature(kind)
    if nameless := sorted(_nameless(signature.bind_partial(*given, **options))):
        raise ConfigurationError(
            f"{kind.__name__} is made again in its worker process, with arguments by their names: let its __init__ "
            f"take {', '.join(nameless)} by name"
        )
    for name, parameter in signature.parameters.items():
        if parameter.kind in _BY_NAME and name not in ReceiverOptions.__annotations__:
            value: object = getattr(receiver, name, getattr(receiver, f"_{name}", _MISSING))
            if value is _MISSING:
                raise ConfigurationError(
                    f"{kind.__name__} is made again in its worker process: keep its argument as self.{name} = {name}"
                )
            yield name, fspath(cast("PathLike[str]", value)) if isinstance(value, PathLike) else value


def _nameless(given: inspect.BoundArguments) -> Iterator[str]:
    for name, value in given.arguments.items():
        kind = given.signature.parameters[name].kind
        if kind == inspect.Parameter.VAR_KEYWORD:
            yield from set(value) - set(ReceiverOptions.__annotations__)
        elif kind not in _BY_NAME:
            yield name
