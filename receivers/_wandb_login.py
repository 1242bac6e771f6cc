"""Finds out, without the SDK, whether W&B's SDK will find credentials and a server."""

from __future__ import annotations

import configparser
import netrc
import os
import re
import ssl
import threading
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from eventbus.errors import ConfigurationError

_CLOUD_HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")
"""The hosts of W&B's own cloud, under its old and its new name; the SDK takes a key of either."""

_MIN_KEY_LENGTH = 40


REACH_SECONDS = 4.0
"""How long a server may take to give a sign of life before it counts as unreachable."""

_SERVER_ERROR = 500


def base_url() -> str:
    """Return the address of the server that the SDK is configured for; empty for W&B's own cloud."""
    return os.environ.get("WANDB_BASE_URL") or _configured_url()


def _configured_url() -> str:
    folder = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(Path(folder).expanduser() / "settings")
    except (configparser.Error, OSError, UnicodeDecodeError):
        return ""  # the SDK passes over such a file too
    return parser.get("default", "base_url", fallback="")


def host(url: str) -> str:
    """Return host and port of an address, without the credentials that it may hold."""
    return urlsplit(url).netloc.rpartition("@")[2]


def is_reachable(url: str) -> bool:
    """Tell whether a server gives a sign of life within `REACH_SECONDS`; it waits for that, so not on a loop.

    Args:
        url: Its address; empty for W&B's own cloud.
    """
    alive = threading.Event()
    urls = [url] if url else [f"https://{name}" for name in _CLOUD_HOSTS]
    for one in urls:
        # In a thread of its own: the look-up of a name has no time limit.
        threading.Thread(target=_knock, args=(one, alive), name="trackbus wandb server", daemon=True).start()
    return alive.wait(REACH_SECONDS)


def _knock(url: str, alive: threading.Event) -> None:
    try:
        with urllib.request.urlopen(url, timeout=REACH_SECONDS):  # noqa: S310 - the address is the user's own
            alive.set()
    except urllib.error.HTTPError as error:
        if error.code < _SERVER_ERROR:  # it answers: what it thinks of the question doesn't matter
            alive.set()
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):  # the SDK may know its certificate
            alive.set()
    except (OSError, ValueError):
        return


def check_login(url: str) -> None:
    """Raise where `wandb.init` would fail or ask a person.

    Args:
        url: Address of the server; empty for W&B's own cloud.

    Raises:
        ConfigurationError: The address is none, or there is no key for it that could be one.
    """
    if url and not host(url):
        raise ConfigurationError(f"{url!r} is no address of a W&B server: write it as https://host")
    if os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return
    key = os.environ.get("WANDB_API_KEY") or _saved_key((host(url),) if url else _CLOUD_HOSTS)
    if not key:
        server = host(url) or "W&B"
        raise ConfigurationError(
            f"mode='online' needs an API key for {server}: run `wandb login`, set WANDB_API_KEY, or use mode='offline'"
        )
    if problem := _key_problem(key):
        raise ConfigurationError(f"the API key for W&B {problem}: run `wandb login`, or use mode='offline'")


def _saved_key(hosts: tuple[str, ...]) -> str:
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        saved = netrc.netrc(path)
    except (netrc.NetrcParseError, OSError):
        return ""  # no file, or one that the SDK passes over too
    found = (saved.authenticators(name) for name in hosts)
    return next((entry[2] for entry in found if entry and entry[2]), "")


def _key_problem(key: str) -> str:
    if re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", key):
        return ""  # a token of three parts; only the server can judge it
    secret = key.partition("-")[2] or key
    if not re.fullmatch(r"[\w-]+", secret):
        return "may only contain letters, digits and underscores"
    if len(secret) < _MIN_KEY_LENGTH:
        return f"has {len(secret)} characters; a whole one has {_MIN_KEY_LENGTH} or more"
    return ""
