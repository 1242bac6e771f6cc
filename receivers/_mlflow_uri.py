"""Tracking URIs of MLflow: which ones can work, what of them may be shown, and what an error says of the store."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from eventbus.errors import ConfigurationError, TrackbusError
from receivers._suspects import causes, is_environment
from receivers._uri import redacted
from receivers.abc import NotAuthorisedError, TrackerUnavailableError

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SERVERS = ("http", "https", "databricks")


NOT_AUTHORISED = (401, 403)

JUDGED = range(400, 500)
"""Answers of a server that judge the request. Anything else, a page in HTML too, says that the server is not itself."""

PASSING = (*NOT_AUTHORISED, 408, 409, 425, 429, 499)
"""Those of them that another try may change."""

REFUSALS = (400, 413, 414, 422, 431)
"""Those of them that judge what the request holds."""

LOST_CONNECTIONS = ("OperationalError", "InterfaceError")
"""What SQLAlchemy calls the errors of a database that is away, locked or full."""


class MLflowError(TrackbusError, RuntimeError):
    """Raised when MLflow refuses a request; its text never holds the URI's password."""


def is_server(uri: str) -> bool:
    """Tell whether a URI names a tracking server, which keeps the artifacts too."""
    return uri == "databricks" or urlsplit(uri).scheme in SERVERS


def run_page(uri: str, experiment: str, run_id: str) -> str:
    """Return the address of a run's page; where no server shows one, that of the store."""
    if not uri.startswith(("http://", "https://")):
        return uri
    return f"{uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"


def _secrets(uri: str) -> list[str]:
    """Return what of a URI may stand in no message, the longest first."""
    parts = urlsplit(uri)
    user = parts.netloc.rpartition("@")[0]
    hidden = [uri, user, unquote(user), parts.password or "", unquote(parts.password or "")]
    return [text for text in [*hidden, "" if store_file(uri) else parts.query] if text]


@contextmanager
def redacting(uri: str) -> Generator[None]:
    """Give every error of MLflow a class that says whose fault it is, and a text without the password.

    Raises:
        TrackerUnavailableError: The store can't be reached, is overloaded, or something else answers in its place.
        NotAuthorisedError: It refuses the user.
        MLflowError: It refuses the request.
    """
    try:
        yield
    except TrackbusError:
        raise
    except Exception as error:  # border: MLflow lets through what requests, SQLAlchemy and the system raise
        text = f"{type(error).__name__}: {error}"
        kind = _kind(error, is_server(uri))
        safe = redacted(uri)
        if safe == uri:
            raise kind(text) from error
        for secret in _secrets(uri):
            text = text.replace(secret, safe if secret == uri else "***")
        raise kind(text) from None


def _kind(error: Exception, at_server: bool) -> type[TrackbusError]:  # noqa: FBT001 - one of two kinds of store
    status = _status(error)
    if at_server and status in NOT_AUTHORISED:
        return NotAuthorisedError
    away = _is_away_server(error, status) if at_server else _is_away_database(error)
    return TrackerUnavailableError if away or is_environment(error) else MLflowError


def is_refusal(error: Exception, uri: str) -> bool:
    """Tell whether an error judges what was to be stored, so that another try ends the same: else it is to be raised.

    The tracker must have answered so itself, or the error must be one of code that reads the content. What a system
    or a database says, and what `redacting` calls the store's fault, is never a refusal; nor is an error of ours.
    """
    if isinstance(error, TrackbusError) or _kind(error, is_server(uri)) is not MLflowError:
        return False
    chain = list(causes(error))
    if any(isinstance(one, sqlite3.Error) for one in chain):
        return False
    if (status := _status(error)) is not None:
        return status in REFUSALS
    return not any(isinstance(one, (ImportError, MemoryError)) or _is_systems(one) for one in chain)


def _is_systems(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno not in (None, errno.ENAMETOOLONG)


def _status(error: Exception) -> int | None:
    """Return the HTTP status that an error of MLflow or of requests stands for; None for other errors."""
    if (response := getattr(error, "response", None)) is not None:
        return int(response.status_code)
    ask = getattr(error, "get_http_status_code", None)
    return None if ask is None else int(ask())


def _is_away_server(error: Exception, status: int | None) -> bool:
    if status is None:  # before or after the request: its fault if requests raised it, else perhaps the event's
        return type(error).__module__.partition(".")[0] in ("requests", "urllib3")
    no_api = getattr(error, "error_code", "") == "ENDPOINT_NOT_FOUND"
    return status not in JUDGED or status in PASSING or no_api


def _is_away_database(error: Exception) -> bool:
    chain = list(causes(error))
    if any(isinstance(one, sqlite3.Error) for one in chain):
        return False  # its own code says more: see `is_environment`
    return any(_is_lost_connection(one) for one in chain)


def _is_lost_connection(error: BaseException) -> bool:
    by_sqlalchemy = type(error).__module__.startswith("sqlalchemy.")
    return by_sqlalchemy and type(error).__name__ in LOST_CONNECTIONS


def has_timed_out(error: BaseException) -> bool:
    """Tell whether a request took too long."""
    return any("Timeout" in type(one).__name__ for one in causes(error))  # of requests, urllib3 or the system


def sqlite_uri(file: Path) -> str:
    """Return the tracking URI of a SQLite store: SQLAlchemy decodes its path, and reads options behind a `?`."""
    return f"sqlite:///{_quoted(file)}"


def _quoted(file: Path) -> str:
    return str(file).replace("%", "%25").replace("?", "%3F")


def absolute_uri(uri: str, folder: Path) -> str:
    """Return a tracking URI that means the same wherever it is read: a SQLite store's relative path is below `folder`.

    A path that SQLite itself reads as a URI stays as it is.
    """
    file = store_file(uri)
    if file is None or file.is_absolute() or str(file).startswith("file:"):
        return uri
    return uri.replace(":///", f":///{_quoted(folder)}/", 1)


def store_file(uri: str) -> Path | None:
    """Return the file of a SQLite store; None for other stores."""
    scheme, _, rest = uri.partition(":///")
    if scheme.partition("+")[0] != "sqlite":
        return None
    return Path(unquote(rest.partition("?")[0]))


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
    if scheme == "sqlite" and uri.partition("://")[2].strip("/") in ("", ":memory:"):
        raise ConfigurationError(f"tracking_uri={uri!r} is gone when the worker ends: name a file, sqlite:///<file>")
