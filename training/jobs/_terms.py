"""Words of job files: file names, targets, and the enumerations that NVFLARE's users pass."""

from __future__ import annotations

from enum import StrEnum

from eventbus.workspace import SERVER, check_name
from training.errors import JobError

ALL_SITES = "@ALL"
"""Target of what every site gets that has no app of its own."""

META = "meta.json"
SERVER_CONFIG = "config_fed_server.json"
CLIENT_CONFIG = "config_fed_client.json"
FORMAT_VERSION = 2

GLOBAL_METRICS = "global_metrics"
"""Entry of the server's configuration: whether the server logs a run of its own."""

SYSTEM_METRICS = "system_metrics"
"""Entry of the server's configuration: seconds between two samples of what the machines do; true: as often as usual."""

INITIAL_MODEL = "initial_model.safetensors"
"""Weights of the model that a job starts from, in the server's `custom/`."""


class FrameworkType(StrEnum):
    """What a script's parameters are made of."""

    RAW = "raw"
    NUMPY = "numpy"
    PYTORCH = "pytorch"
    TENSORFLOW = "tensorflow"


class ExchangeFormat(StrEnum):
    """What parameters travel as. Here it is always safetensors; the names are there for scripts that give one."""

    RAW = "raw"
    PYTORCH = "pytorch"
    NUMPY = "numpy"
    KERAS_LAYER_WEIGHTS = "keras_layer_weights"


class TransferType(StrEnum):
    """What a site sends: whole parameters, or their difference from what it was sent."""

    FULL = "FULL"
    DIFF = "DIFF"


def check_target(target: str) -> str:
    """Return a target of a job: `server`, `@ALL`, or the name of a site.

    Raises:
        JobError: It is none.
    """
    if target in (SERVER, ALL_SITES):
        return target
    try:
        return check_name("site", target)
    except ValueError as error:
        raise JobError(f"{error}; for all sites use to_clients(), for the server to_server()") from error
