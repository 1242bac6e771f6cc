"""Finds out, without the SDK, whether W&B's SDK will find credentials."""

from __future__ import annotations

import configparser
import netrc
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from eventbus.errors import ConfigurationError

_CLOUD_HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")
"""The hosts of W&B's own cloud, under its old and its new name; the SDK takes a key of either."""

_MIN_KEY_LENGTH = 40


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
