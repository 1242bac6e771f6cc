"""Files that belong to a run: artifacts, models, and the datasets it used."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from eventbus._event import Part
from eventbus._tracking import Key, KeyedEvent
from eventbus.blobs import Blob

__all__ = ["ArtifactFile", "ArtifactLogged", "DatasetLogged", "ModelLogged"]

MAX_FILES = 4000
"""Files in one event: with paths of usual length they fit into a record."""


class ArtifactFile(Part):
    """One file of an artifact.

    Attributes:
        path: Where it lies in the artifact: relative, with slashes, without `..`.
        blob: Its bytes; None for a reference.
        reference: Address of a file that stays where it is; empty for one whose bytes are here.
    """

    path: str = Field(min_length=1, max_length=1000)
    blob: Blob | None = None
    reference: str = ""


class ArtifactLogged(KeyedEvent):
    """Files, as they were when they were logged.

    Attributes:
        key: Its name.
        files: Its files.
        kind: What it is, as W&B's `type`: `dataset`, `checkpoint`, ...; empty for plain files of the run, whose `path`
            is where they lie below the run's artifacts (MLflow), or among its files (W&B's `save`).
        aliases: Names of this version.
        tags: Labels of this version.
        metadata: What else is known of it.
        description: For people.
        is_input: Whether the run used it, rather than made it.
    """

    files: list[ArtifactFile] = Field(max_length=MAX_FILES)
    kind: str = ""
    aliases: list[str] = Field(default=[])
    tags: list[str] = Field(default=[])
    metadata: dict[str, JsonValue] = Field(default={})
    description: str = ""
    is_input: bool = False


class ModelLogged(ArtifactLogged):
    """A model, saved at the caller.

    Attributes:
        key: Its name.
        flavor: How it was saved: `pytorch`, `pyfunc`, ...: MLflow's flavor; `files` are what that flavor saved.
        registered_name: Under which name it is to be registered; empty for none.
        params: Parameters of the model.
    """

    flavor: str = ""
    registered_name: str = ""
    params: dict[str, str] = Field(default={})


class DatasetLogged(KeyedEvent):
    """A dataset that the run used: MLflow's `log_input`.

    Attributes:
        key: Its name.
        digest: What tells this version of it from others.
        source_type: Kind of its source: `local`, `http`, `s3`, `hugging_face`, ...
        source: Where it comes from, as MLflow's JSON.
        data_schema: Its columns and types, as MLflow's JSON; empty where unknown.
        profile: Its size and the like, as MLflow's JSON; empty where unknown.
        context: What it was used for: `training`, `eval`, ...
        tags: Labels of this use.
        role: Whether the run read it or wrote it.
    """

    digest: Key
    source_type: str = ""
    source: str = ""
    data_schema: str = ""
    profile: str = ""
    context: str = ""
    tags: dict[str, str] = Field(default={})
    role: Literal["input", "output"] = "input"
