"""What a start order names by its import path, imported: the sink with its settings, the events' classes."""

from __future__ import annotations

import importlib
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eventbus._topic import Scope, Selector

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventbus.blobs import BlobReader
    from receivers._control import Start
    from receivers.abc import Sink


def make_sink_factory(start: Start, blobs: BlobReader) -> Callable[[], Sink[Any]]:
    """Import the sink that a start order names and return what makes one for a run.

    Args:
        start: The order.
        blobs: Finds the files that events name.
    """
    sink_type = load(start.sink)
    config = load(start.config_type).model_validate_json(start.config)
    workspace = Path(start.workspace)

    def make_sink() -> Sink[Any]:
        sink: Sink[Any] = sink_type(config, workspace)
        sink.batch_seconds = start.process_timeout
        sink.blobs = blobs
        return sink

    return make_sink


def load(path: str) -> Any:
    """Import what a path names, `module:Class`."""
    module, _, name = path.partition(":")
    return attrgetter(name)(importlib.import_module(module))


def selectors_of(start: Start) -> list[Selector]:
    """Return the subscriptions that a start order names; importing an event's class makes its records readable."""
    return [
        Selector(pattern, load(event) if event else None, None if scope is None else Scope(scope), sites, runs)
        for pattern, event, scope, sites, runs in start.selectors
    ]
