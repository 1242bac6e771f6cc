"""Settings of MLflow, and what of them works."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, cast
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, field_serializer

from eventbus.errors import ConfigurationError, MissingExtraError
from receivers._mlflow_draft import as_text
from receivers._mlflow_uri import absolute_uri, check_uri, is_server, redacted, sqlite_uri
from receivers.abc import SinkConfig

SECRET_URI = "TRACKBUS_MLFLOW_URI"  # noqa: S105 - the variable's name
"""Environment variable that carries a tracking URI with a password to the worker."""

REQUEST_SECONDS = 5
"""A request that takes longer fails and its batch is sent again; MLflow would try for twenty minutes. After each that
did, the next may take twice as long, up to `SHARE` of what a batch may take."""

SHARE = 0.8
"""Part of a batch's deadline that one request may use: the sink is to fail before it is killed for hanging."""

TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
"""MLflow reads it at each request; an integer of seconds."""

_OPTIONS = ("experiment_name", "run_name", "experiment_tags", "run_tags")


class MLflowConfig(SinkConfig):
    """Settings of MLflow.

    Attributes:
        tracking_uri: A database or a tracking server, as MLflow reads it; by default `mlflow.db` in the
            workspace. A relative path, `sqlite:///my.db`, begins at `folder`.
        folder: By default the current folder in which the settings are made, wherever their worker starts later.
        kw_args: `experiment_name`, `run_name`, `experiment_tags`, `run_tags`, as NVFLARE names them.
        artifact_location: Where new artifacts go: a URI or a folder in the workspace; by default what a server says.
    """

    kind: ClassVar[str] = "mlflow"
    sink: ClassVar[str] = "receivers.mlflow:MLflowSink"

    tracking_uri: str | None = Field(default=None, repr=False)
    kw_args: dict[str, JsonValue] | None = None
    artifact_location: str | None = None
    folder: Path = Field(default_factory=Path.cwd)

    @field_serializer("tracking_uri")
    def _without_password(self, uri: str | None) -> str | None:
        """Keep the password out of what is written down; the worker gets it by its environment."""
        return uri and redacted(uri)

    def uri(self, workspace: Path) -> str:
        """Return the tracking URI, with its password."""
        secret = os.environ.get(SECRET_URI)
        if secret is not None and redacted(secret) == self.tracking_uri:
            return secret
        if self.tracking_uri is None:
            return sqlite_uri((workspace / "mlflow.db").absolute())
        return absolute_uri(self.tracking_uri, self.folder)

    def artifacts(self, workspace: Path) -> str | None:
        """Return where a new experiment keeps its artifacts; None leaves it to the server."""
        location = self.artifact_location
        if is_server(self.uri(workspace)) or (location and len(urlsplit(location).scheme) > 1):  # 1: a Windows drive
            return location
        return (workspace / (location or "mlartifacts")).absolute().as_uri()

    def option(self, name: str) -> str | None:
        """Return one of the texts in `kw_args`."""
        value = (self.kw_args or {}).get(name)
        return None if value is None else str(value)

    def tags(self, name: str) -> dict[str, str]:
        """Return one of the dicts in `kw_args`."""
        value = (self.kw_args or {}).get(name) or {}
        return {key: as_text(inner) for key, inner in cast("dict[str, object]", value).items()}

    def check(self, workspace: Path) -> None:
        """Refuse a missing SDK, options that nobody reads, and stores that keep a repeated row twice."""
        if find_spec("mlflow") is None:
            raise MissingExtraError("MLflowReceiver needs the package mlflow: pip install 'trackbus[mlflow]'")
        options = self.kw_args or {}
        if unknown := sorted(set(options) - set(_OPTIONS)):
            raise ConfigurationError(f"kw_args: unknown {', '.join(unknown)}; known are {', '.join(_OPTIONS)}")
        for name in ("experiment_tags", "run_tags"):
            if not isinstance(options.get(name) or {}, dict):
                raise ConfigurationError(f"kw_args: {name} must be a dict of tag and value")
        check_uri(self.tracking_uri or self.uri(workspace))

    def destination(self, workspace: Path) -> str:
        """Name the store."""
        return f"{self.kind}:{redacted(self.uri(workspace))}"

    def environment(self) -> Mapping[str, str]:
        """Make MLflow fail fast instead of retrying for minutes, write at once, and tell nobody."""
        telemetry = {name: "true" for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK") if name not in os.environ}
        uri = self.tracking_uri or ""
        secret = {SECRET_URI: uri} if redacted(uri) != uri else {}
        return {
            TIMEOUT: str(REQUEST_SECONDS),
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            **telemetry,
            **secret,
        }

    def look(self, workspace: Path) -> str:
        """Start MLflow's pages on the store, or name the server's."""
        uri = redacted(self.uri(workspace))
        if is_server(uri):
            return uri
        return f"mlflow ui --backend-store-uri {shlex.quote(uri)}"
