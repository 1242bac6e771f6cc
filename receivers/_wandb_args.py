"""Arguments of `wandb.init`: which ones a user may give, and what is made of them. Loads no SDK."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from eventbus.errors import ConfigurationError
from receivers._layout import OF_TRACKERS
from receivers._names import escape, shorten
from receivers._wandb_rows import OURS, merge, settings

if TYPE_CHECKING:
    from pathlib import Path

    from receivers._wandb_file import Found
    from receivers.abc import RunInfo

INIT_TIMEOUT = 20.0
"""Seconds that `wandb.init` may wait for a server; less than a worker has to start."""

FINISH_TIMEOUT = 15.0
"""Seconds that `finish` may upload; with the wait for the file less than a worker has for a batch."""

FLUSH_INTERVAL = 0.25
"""Seconds after which wandb-core writes to its file what it has; the position lags by that."""

_ARGUMENTS = frozenset(("project", "entity", "name", "group", "job_type", "tags", "notes", "config", "dir", "settings"))
_SAID = "wandb."
"""What tags begin with by which W&B's look-alike says how a run is to be presented."""

_MAX_ID, _MAX_TAG, _MAX_PROJECT = 64, 64, 128
_NOT_IN_PROJECT = re.compile(r"[/\\#?%:]")

_SETTINGS: Mapping[str, Any] = {
    # Where the file is, and that it is written soon.
    "symlink": False,
    "use_dot_wandb": False,
    "x_skip_transaction_log": False,
    "x_transaction_log_flush_interval": FLUSH_INTERVAL,
    # Every wait is bounded.
    "init_timeout": INIT_TIMEOUT,
    "finish_timeout": FINISH_TIMEOUT,
    "finish_timeout_raises": True,
    # Only what was logged is stored: nothing of the worker's machine, code, console and command line.
    "silent": True,
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "label_disable": True,
    "save_code": False,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}
_OUR_SETTINGS = _SETTINGS.keys() | {"mode", "resume", "run_id", "reinit", "root_dir", "stop_fn", "host"}


_FOREIGN = ("SERVICE", "SWEEP_ID", "LAUNCH", "RUN_ID", "RESUME", "RESUME_FROM", "FORK_FROM", "CONFIG_PATHS")
"""Variables by which the trainer's own W&B session would draw our runs into it."""


def check_arguments(args: Mapping[str, Any]) -> None:
    """Refuse arguments that can't work.

    Raises:
        ConfigurationError: With what to do instead.
    """
    if unknown := sorted(args.keys() - _ARGUMENTS):
        raise ConfigurationError(
            f"wandb_args: {', '.join(unknown)} can't be set: trackbus chooses the run's id, and resumes and "
            f"finishes the run itself; known are {', '.join(sorted(_ARGUMENTS))}"
        )
    _check_names(args)
    _check_settings(args.get("settings", {}))


def _check_names(args: Mapping[str, Any]) -> None:
    texts = ("project", "entity", "name", "group", "job_type", "notes")
    if wrong := [key for key in texts if not isinstance(args.get(key, ""), str | None)]:
        raise ConfigurationError(f"wandb_args: {', '.join(wrong)} must be a text")
    project = args.get("project") or ""
    if len(project) > _MAX_PROJECT or _NOT_IN_PROJECT.search(project):
        raise ConfigurationError(
            f"wandb_args: project {project!r}: up to {_MAX_PROJECT} characters, none of / \\ # ? % :"
        )
    tags = args.get("tags") or ()
    if isinstance(tags, str) or not all(isinstance(tag, str) and 0 < len(tag) <= _MAX_TAG for tag in tags):
        raise ConfigurationError(f"wandb_args: tags must be a list of texts of 1 to {_MAX_TAG} characters")
    if not isinstance(args.get("config") or {}, Mapping):
        raise ConfigurationError("wandb_args: config must be a dict")


def _check_settings(settings: object) -> None:
    if not isinstance(settings, Mapping):
        raise ConfigurationError("wandb_args: settings must be a dict, such as {'base_url': 'https://...'}")
    given = cast("Mapping[str, object]", settings)
    keys = given.keys()
    if not isinstance(given.get("base_url", ""), str):
        raise ConfigurationError("wandb_args: base_url must be a text")
    if "api_key" in keys:
        raise ConfigurationError("wandb_args: no key belongs into settings: run `wandb login` or set WANDB_API_KEY")
    if taken := sorted(keys & _OUR_SETTINGS):
        raise ConfigurationError(f"wandb_args: trackbus itself sets the settings {', '.join(taken)}: leave them out")


def run_id(run: RunInfo) -> str:
    """Return the W&B id of a run at a site: always the same, and of no other."""
    parts = (escape(part, r"[^A-Za-z0-9_-]") for part in (run.id, run.site) if part)
    return shorten(".".join(parts), _MAX_ID)


def init_arguments(args: Mapping[str, Any], run: RunInfo, found: Found, folder: Path) -> dict[str, Any]:
    """Return the arguments of `wandb.init`.

    Args:
        args: What the user gave, checked.
        run: The run to fill.
        found: What earlier files of the run hold: each file must have the whole configuration, since the last
            one that `wandb sync` uploads replaces it.
        folder: Folder of the SDK's folder `wandb`.
    """
    config = merge(settings(args.get("config") or {}, Counter()), found.config)
    return {
        **{key: args.get(key) for key in ("entity", "job_type")},
        "notes": run_notes(args, config) or None,
        "id": run_id(run),
        "dir": str(folder),
        "project": args.get("project") or _NOT_IN_PROJECT.sub("-", run.group)[:_MAX_PROJECT] or "trackbus",
        "group": args.get("group") or run.group or None,
        "name": run.titled(args.get("name") or run.name),
        "tags": run_tags(args, config) or None,
        "config": _without_status(config),
        # Several runs live in one process, and `wandb.run` belongs to none of them.
        "reinit": "create_new",
        "settings": {**args.get("settings", {}), **_SETTINGS, "host": run.site or "combined", "stop_fn": _go_on},
    }


def _without_status(config: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out how the run ended before it was opened again."""
    ours = {key: value for key, value in config.get(OURS, {}).items() if key not in ("status", "reason") and value}
    theirs = {key: value for key, value in config.items() if key != OURS}
    return {**theirs, OURS: ours} if ours else theirs


def run_tags(args: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Return the run's tags: the user's arguments, and the logged ones as `key=value` (or `key`) if short enough.

    What the writer says of the run by tags that begin with `wandb.` stays in the configuration, and so do the copies of
    such tags that have a site's name before them.
    """
    tags = config.get(OURS, {}).get("tags", {})
    plain = {key: value for key, value in tags.items() if not _is_said(key, tags)}
    logged = (f"{key}={value}" if value else key for key, value in plain.items())
    return list(dict.fromkeys((*(args.get("tags") or ()), *(tag for tag in logged if len(tag) <= _MAX_TAG))))


def _is_said(key: str, tags: Mapping[str, str]) -> bool:
    """Tell whether a tag is one by which the run is presented, or a site's own copy of one that speaks to a tracker."""
    _, _, rest = key.partition("/")
    return key.startswith(_SAID) or (rest.startswith(OF_TRACKERS) and rest in tags)


def run_notes(args: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Return the run's notes: the user's argument, or what the writer was told."""
    return args.get("notes") or config.get(OURS, {}).get("tags", {}).get(f"{_SAID}notes") or ""


def _go_on() -> None:
    """Do nothing when somebody stops the run on W&B's page: by default the SDK would interrupt the worker."""


def leave_other_sessions() -> None:
    """Forget the trainer's own W&B session, which a worker inherits by the environment."""
    for name in _FOREIGN:
        variable = f"WANDB_{name}"
        is_ours = name == "SERVICE" and f"-{os.getpid()}-" in os.environ.get(variable, "")
        if not is_ours:
            os.environ.pop(variable, None)
