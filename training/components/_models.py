"""First models: made from what a job says, or read from a file. Torch is here."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from training.checkpoint import CheckpointError, load_state_file
from training.errors import JobError
from training.fl_model import FLModel
from training.model import State, copy_state, get_state

if TYPE_CHECKING:
    from pathlib import Path

_WRAPPERS = ("model", "state_dict", "model_state_dict")
"""Under which NVFLARE, Lightning and torch's tutorials keep the weights of a checkpoint."""


SAVE = "write it with torch.save(model.state_dict(), ...)"


def make_state(model: object, seed: int, components: Mapping[str, object]) -> State:
    """Return the weights of what a job names as its model.

    Args:
        model: A module, the id of a component that is one, a class by its path, an `FLModel`, or tensors by name.
        seed: What torch's generator is set to while a class is made; outside it stays as it was.
        components: Where an id is looked up.

    Raises:
        JobError: It is none of these, or can't be made.
    """
    if isinstance(model, str):
        return _component_state(model, components)
    if isinstance(model, FLModel):
        return make_state(model.params or {}, seed, components)
    if isinstance(model, nn.Module):
        return get_state(model)
    if not isinstance(model, Mapping):
        raise JobError(f"the model is a {type(model).__name__}: give a torch.nn.Module, its class, or tensors by name")
    given = cast("Mapping[str, Any]", model)
    if isinstance(path := given.get("path"), str):
        return get_state(_make_module(path, given.get("args") or {}, seed))
    return _to_state(given, "the model")


def read_checkpoint(path: Path) -> State:
    """Return the weights of a file.

    Raises:
        JobError: It is missing, damaged, holds what could run code, or no weights.
    """
    if path.suffix == ".safetensors":
        try:
            return load_state_file(path)
        except CheckpointError as error:
            raise JobError(str(error)) from error
    return _to_state(_unwrap(_load(path)), str(path))


def _load(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise JobError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:  # torch's words are long, and say how to run what is in the file
        raise JobError(
            f"cannot read the checkpoint {path}: it holds more than weights and plain values: {SAVE}"
        ) from error
    except (RuntimeError, ValueError, EOFError, KeyError) as error:
        raise JobError(f"cannot read the checkpoint {path}: {error}: {SAVE}") from error


def _unwrap(data: object) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        return {}
    found = cast("Mapping[str, Any]", data)
    inner = (found[key] for key in _WRAPPERS if isinstance(found.get(key), Mapping))
    return next(inner, found)


def _to_state(values: Mapping[str, Any], what: str) -> State:
    for name, value in values.items():
        if not isinstance(value, torch.Tensor | np.ndarray):
            raise JobError(f"{what} holds a {type(value).__name__} as {name!r}: expected are tensors by name")
    return copy_state({name: torch.as_tensor(value) for name, value in values.items()})


def _component_state(name: str, components: Mapping[str, object]) -> State:
    found = components.get(name)
    if not isinstance(found, nn.Module):
        raise JobError(f"there is no torch.nn.Module among the server's components with the id {name!r}")
    return get_state(found)


def _make_module(path: str, args: Mapping[str, Any], seed: int) -> nn.Module:
    kind = _find_class(path)
    generator = torch.default_generator
    before = generator.get_state()
    try:
        generator.manual_seed(seed % 2**63)  # any whole number is a seed
        module = kind(**args)
    except Exception as error:  # border: the user's own constructor
        raise JobError(f"the model {path} can't be made: {type(error).__name__}: {error}") from error
    finally:
        generator.set_state(before)
    if not isinstance(module, nn.Module):
        raise JobError(f"the model {path} is a {type(module).__name__}, not a torch.nn.Module")
    return module


def _find_class(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # border: the user's own module is run
        raise JobError(f"the model {path} can't be imported: {type(error).__name__}: {error}") from error
