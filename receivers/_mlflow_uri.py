"""Tracking URIs of MLflow: which ones can work, what of them may be shown, and who may open a new store."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from eventbus.errors import ConfigurationError, TrackbusError

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SERVERS = ("http", "https", "databricks")


class MLflowError(TrackbusError, RuntimeError):
    """Raised when MLflow refuses a request or can't be reached; its text never holds the URI's password."""


def is_server(uri: str) -> bool:
    """Tell whether a URI names a tracking server, which keeps the artifacts too."""
    return uri == "databricks" or urlsplit(uri).scheme in SERVERS


def redacted(uri: str) -> str:
    """Return a URI without user, password and options."""
    parts = urlsplit(uri)
    user, at, host = parts.netloc.rpartition("@")
    query = "***" if parts.query and parts.scheme != "sqlite" else parts.query
    hidden = parts._replace(netloc=f"***@{host}" if user + at else parts.netloc, query=query)
    return uri if hidden == parts else urlunsplit(hidden)


def _secrets(uri: str) -> list[str]:
    """Return what of a URI may stand in no message, the longest first."""
    parts = urlsplit(uri)
    user = parts.netloc.rpartition("@")[0]
    hidden = [uri, user, unquote(user), parts.password or "", unquote(parts.password or "")]
    return [text for text in [*hidden, "" if parts.scheme == "sqlite" else parts.query] if text]


@contextmanager
def redacting(uri: str) -> Generator[None]:
    """Give every error of MLflow one class, and a text without the password."""
    try:
        yield
    except TrackbusError:
        raise
    except Exception as error:  # border: MLflow lets through what requests, SQLAlchemy and the system raise
        text = f"{type(error).__name__}: {error}"
        safe = redacted(uri)
        if safe == uri:
            raise MLflowError(text) from error
        for secret in _secrets(uri):
            text = text.replace(secret, safe if secret == uri else "***")
        raise MLflowError(text) from None


def store_file(uri: str) -> Path | None:
    """Return the file of a SQLite store; None for other stores."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").partition("?")[0])


@contextmanager
def one_at_a_time(uri: str) -> Generator[None]:
    """Let one process at a time open a SQLite store: two that create its tables at once break it."""
    file = store_file(uri)
    if file is None:
        yield
        return
    import fcntl  # noqa: PLC0415 - not on Windows, where nothing but the import of this module is promised

    file.parent.mkdir(parents=True, exist_ok=True)
    with (file.parent / ".mlflow.lock").open("ab") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        yield


def check_uri(uri: str) -> None:
    """Refuse a tracking URI that MLflow can't open, or whose store would keep a redelivered row twice.

    Raises:
        ConfigurationError: It is neither a database nor a server.
    """
    try:
        scheme = urlsplit(uri).scheme.partition("+")[0] or uri
    except ValueError as error:
        raise ConfigurationError(f"tracking_uri can't be read: {error}") from None
    if scheme not in (*DATABASES, *SERVERS):
        raise ConfigurationError(
            f"tracking_uri={redacted(uri)!r} is neither a database (sqlite:///<file>, postgresql://...) nor "
            "a server (http://..., databricks); a folder of files would keep a repeated row twice"
        )
    if scheme == "sqlite" and not uri.removeprefix("sqlite://").strip("/"):
        raise ConfigurationError("tracking_uri='sqlite://' is gone when the worker ends: name a file, sqlite:///<file>")
