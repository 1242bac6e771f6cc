"""What of an address may be shown."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit


def redacted(uri: str) -> str:
    """Return a URI without user, password and options; a plain path has none.

    Raises:
        ValueError: It can't be read.
    """
    parts = urlsplit(uri)
    if not parts.scheme:
        return uri
    user, at, host = parts.netloc.rpartition("@")
    query = "***" if parts.query and parts.scheme.partition("+")[0] != "sqlite" else parts.query
    hidden = parts._replace(netloc=f"***@{host}" if user + at else parts.netloc, query=query)
    return uri if hidden == parts else urlunsplit(hidden)
