"""Objects as job files name them: a path and arguments."""

from __future__ import annotations

import inspect
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, cast
from urllib.parse import urlsplit

from receivers import Receiver
from receivers._receiver import ReceiverOptions
from training.errors import JobError
from training.jobs._registry import path_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from training.jobs._custom import CustomFolder

Description = dict[str, Any]

MODEL = "model"
CHECKPOINT = "source_ckpt_file_full_name"
"""The arguments that name the model and the weights that a job starts from."""

_MISSING = object()
_SECRET_KEY = re.compile(r"(^|[_-])(api[_-]?key|password|passwd|secret|(access|auth|api)[_-]?token)$", re.IGNORECASE)
_SECRET_OPTION = re.compile(r"--?[\w-]*(api[_-]?key|password|passwd|secret|token)[= ]\S", re.IGNORECASE)


def describe(thing: object, place: str, custom: CustomFolder) -> Description:
    """Return an object's path and those of its arguments that are not the defaults.

    An argument's value is the attribute of its name, or of its name behind an underscore. The object's class goes into
    `custom/` if it is the user's own, and so do the weights of a model that it holds.

    Args:
        thing: The object.
        place: What it is to the user, for errors.
        custom: The app's folder.

    Raises:
        JobError: Its class can't be imported by others, or an argument isn't kept, is no JSON, or holds a secret.
    """
    path = _path(type(thing), place, custom)
    args: Description = {}
    for name, default in _parameters(type(thing)):
        value = _kept(thing, name)
        if value is _MISSING and default is inspect.Parameter.empty:
            raise JobError(
                f"{place}: {type(thing).__name__} doesn't keep its argument {name!r}: a job file is written from "
                f"attributes; let __init__ say self.{name} = {name}"
            )
        if value is _MISSING or _is_default(value, default):
            continue
        if is_module(value):
            args[name] = _describe_module(value, f"{place}: {name}", custom)
            _start_from(thing, value, args, place, custom)
        else:
            _refuse_secret(name, value, place)
            args[name] = plain(value, f"{place}: {name}", custom)
    _bring_files(args, custom)
    return {"path": path, "args": args}


def _bring_files(args: Description, custom: CustomFolder) -> None:
    """Take along a model's class that is named by its path, and a checkpoint of the project's."""
    model, checkpoint = args.get(MODEL), args.get(CHECKPOINT)
    if isinstance(model, dict) and isinstance(path := cast("Description", model).get("path"), str):
        custom.add_module(path.rpartition(".")[0])
    if isinstance(checkpoint, str) and not Path(checkpoint).is_absolute() and Path(checkpoint).is_file():
        args[CHECKPOINT] = custom.add(checkpoint)


def is_module(thing: object) -> TypeGuard[nn.Module]:
    """Tell whether something is a torch module, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(thing, torch.nn.Module)


def _start_from(thing: object, module: nn.Module, args: Description, place: str, custom: CustomFolder) -> None:
    """Have the run start from exactly this model's weights, unless it is told to start from others."""
    checkpoint = _kept(thing, CHECKPOINT)
    if checkpoint is _MISSING:
        raise JobError(
            f"{place}: a {type(thing).__name__} has no file for the weights of its model: give the model to "
            "to_server(PTModel(...)), or name its class and arguments"
        )
    if checkpoint is None:
        args[CHECKPOINT] = custom.save_weights(module)


def _describe_module(module: nn.Module, place: str, custom: CustomFolder) -> Description:
    """Name a model's class and such arguments as it keeps: its weights are saved, so it needs not be made again."""
    args: Description = {}
    for name, default in _parameters(type(module)):
        value = _kept(module, name)
        if isinstance(value, str | int | float | list) and not _is_default(cast("object", value), default):
            args[name] = value
    return {"path": _own_path(type(module), place), "args": plain(args, place, custom)}


def _path(kind: type, place: str, custom: CustomFolder) -> str:
    known = path_of(kind)
    if known is not None:
        return known
    path = _own_path(kind, place)
    if kind.__module__ in sys.stdlib_module_names or hasattr(kind, "__array__"):
        raise JobError(f"{place}: job files have nothing for a {path}: they hold JSON, components and your own classes")
    custom.add_module(kind.__module__)
    return path


def _own_path(kind: type, place: str) -> str:
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
        raise JobError(
            f"{place}: other processes can't import {kind.__qualname__} from {kind.__module__}; move the class to the "
            "top level of a module beside the script, and import it from there"
        )
    return f"{kind.__module__}.{kind.__qualname__}"


def _parameters(kind: type) -> Iterator[tuple[str, object]]:
    """Yield the names and defaults of a constructor's arguments; a receiver's options are among them."""
    for name, parameter in signature_of(kind).parameters.items():
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            yield name, parameter.default
        elif parameter.kind == parameter.VAR_KEYWORD and issubclass(kind, Receiver):
            yield from ((option, None) for option in ReceiverOptions.__annotations__)


def signature_of(kind: type) -> inspect.Signature:
    """Return what a constructor takes.

    Raises:
        JobError: It doesn't say.
    """
    try:
        return inspect.signature(kind)
    except ValueError as error:
        raise JobError(f"{kind.__module__}.{kind.__qualname__} doesn't say which arguments it takes") from error


def _kept(thing: object, name: str) -> object:
    if isinstance(thing, Receiver):
        return _kept_by_receiver(thing, name)
    found = getattr(thing, name, getattr(thing, f"_{name}", _MISSING))
    return _MISSING if inspect.ismethod(found) else found


def _kept_by_receiver(receiver: Receiver, name: str) -> object:
    """Return an argument of a receiver's; None where it is the default."""
    settings = receiver.config
    if name in type(settings).model_fields:
        return getattr(settings, name)
    options = {
        "name": None if receiver.name == settings.kind else receiver.name,
        "layout": None if receiver.layout == "per_site" else receiver.layout,
    }
    return options.get(name, _further_option(receiver, name))


def _further_option(receiver: Receiver, name: str) -> object:
    held = {
        "flush": (receiver.flush_policy, receiver.default_flush),
        "worker": (receiver.worker_policy, type(receiver.worker_policy)()),
        "python": (receiver.python, sys.executable),
    }
    if name not in held:
        return getattr(receiver, name, getattr(receiver, f"_{name}", _MISSING))
    value, default = held[name]
    return None if value == default else value


def _is_default(value: object, default: object) -> bool:
    return value is default or (type(value) is type(default) and bool(value == default))


# --- values ----------------------------------------------------------------------------------------------------------


def plain(value: object, place: str, custom: CustomFolder) -> Any:
    """Return a value as JSON has it.

    Raises:
        JobError: JSON has nothing for it, or it is a secret.
    """
    if isinstance(value, Enum):
        return plain(value.value, place, custom)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str | Path):
        return _checked_text(str(value), place)
    if isinstance(value, Mapping):
        return _plain_mapping(cast("Mapping[object, object]", value), place, custom)
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes | bytearray):
        return [plain(one, place, custom) for one in cast("Sequence[object]", value)]
    return describe(value, place, custom)


def _plain_mapping(value: Mapping[object, object], place: str, custom: CustomFolder) -> Description:
    for key, inner in value.items():
        _refuse_secret(str(key), inner, place)
    return {str(key): plain(inner, f"{place}.{key}", custom) for key, inner in value.items()}


def _refuse_secret(name: str, value: object, place: str) -> None:
    if isinstance(value, str) and value and _SECRET_KEY.search(name):
        raise JobError(
            f"{place}: {name} is a secret, and job files are read by many: leave it out, and set it in the "
            "environment of the machine that runs the job"
        )


def _checked_text(text: str, place: str) -> str:
    if "://" in text and "@" in text and _has_password(text):
        raise JobError(
            f"{place} holds a password, and job files are read by many: leave it out, and give it by the environment "
            "(MLflow reads MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)"
        )
    if _SECRET_OPTION.search(text):
        warnings.warn(f"{place} looks as if it held a secret, and it is written into job files", stacklevel=2)
    return text


def _has_password(text: str) -> bool:
    try:
        return urlsplit(text).password is not None
    except ValueError:
        return False
