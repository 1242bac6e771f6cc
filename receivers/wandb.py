"""Weights & Biases: fills one W&B run per run and site, or one for all sites, offline in files or online at a server.

What was logged stands there as follows:

| Event | In W&B |
| --- | --- |
| metrics | a row of the history; metrics of one step that follow each other share a row; `main_tag/key` |
| the user's step | the field `global_step`, the x-axis of all charts; W&B's own step is our row's number |
| several sites in one run | rows of their own, with each site's own step on the one axis `global_step` |
| time | `_timestamp`: when it was logged, not when it arrived |
| text | a field of the history, under its key, also where the key is the path of a file |
| parameters, configuration | the run's config, merged key by key |
| tags | the config's `trackbus.tags`, and the run's tags as `key=value` where W&B's 64 characters suffice |
| how it ended | exit code 0 finished, 1 failed, 255 killed; the config's `trackbus.status` and `.reason` |
| NaN, infinities | as they are in the history; as the words `NaN`, `Infinity`, `-Infinity` in the config |

The SDK acknowledges nothing. The proof that a row is stored is the SDK's own file on disk, in both modes: it
survives `kill -9`. Online, a row in that file may not have reached the server yet. What a killed worker left
there is sent again when the run is opened the next time; `wandb sync` can send it as well.

This file must never be first on `sys.path` under the name `wandb`: start children with `python -P -m`.
"""

from __future__ import annotations

import atexit
import os
import shlex
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Protocol, Unpack, cast

from pydantic import ConfigDict, Field
from pydantic_core import PydanticSerializationError

from eventbus.errors import ConfigurationError, MissingExtraError, NotDeliveredError, WorkspaceError
from eventbus.tracking import RunStatus
from receivers._receiver import Receiver, ReceiverOptions
from receivers._wandb_args import check_arguments, init_arguments, run_id, run_tags
from receivers._wandb_file import Found, Stored, WandBLog, recover, rows_after, run_files
from receivers._wandb_login import base_url, check_login, host
from receivers._wandb_rows import OURS, STEP, Change, changes, merge, storable
from receivers.abc import Position, Row, RunInfo, Sink, SinkConfig

FILE_TIMEOUT = 10.0
"""Seconds in which a finished run's last records must stand in its file; it takes some milliseconds."""

_POLL = 0.01
_MODES = ("online", "offline", "disabled")
_EXIT_CODES = {None: 1, RunStatus.FINISHED: 0, RunStatus.FAILED: 1, RunStatus.KILLED: 255}

_FOREIGN = ("SERVICE", "SWEEP_ID", "LAUNCH", "RUN_ID", "RESUME", "RESUME_FROM", "FORK_FROM", "CONFIG_PATHS")
"""Variables by which the trainer's own W&B session would draw our runs into it."""


class WandBConfig(SinkConfig):
    """Settings of W&B.

    Attributes:
        mode: `offline` keeps all in files for `wandb sync`, `online` sends it as well, `disabled` drops it.
        wandb_args: What `wandb.init` takes: `project`, `entity`, `name` (the site's is put before it),
            `group`, `job_type`, `tags`, `notes`, `config`, `dir` (relative to the workspace) and `settings`
            (a dict).
    """

    model_config = ConfigDict(ser_json_inf_nan="constants")

    kind: ClassVar[str] = "wandb"
    sink: ClassVar[str] = "receivers.wandb:WandBSink"

    mode: str = "offline"
    wandb_args: dict[str, Any] = Field(default={})

    def check(self, workspace: Path) -> None:
        """Refuse what `wandb.init` would refuse, fall over, or ask a person about.

        Raises:
            ConfigurationError: The mode or an argument can't work, or there is no key for the server.
            MissingExtraError: The SDK is not installed.
        """
        if self.mode not in _MODES:
            raise ConfigurationError(f"unknown mode {self.mode!r}: use one of {', '.join(_MODES)}")
        check_arguments(self.wandb_args)
        self._check_travels()
        if self.mode == "disabled":
            return
        if find_spec("wandb") is None:
            raise MissingExtraError("W&B's SDK is not installed: pip install 'trackbus[wandb]'")
        if self.folder(workspace).is_file():
            raise ConfigurationError(f"dir={self.wandb_args['dir']!r} is a file; name a folder")
        if self.mode == "online":
            check_login(self.url())

    def _check_travels(self) -> None:
        try:
            self.model_dump_json()
        except (PydanticSerializationError, ValueError) as error:
            raise ConfigurationError(f"wandb_args travel to the worker as JSON: {error}") from error

    def folder(self, workspace: Path) -> Path:
        """Return the folder that holds the SDK's folder `wandb`."""
        return (workspace / Path(self.wandb_args.get("dir") or ".").expanduser()).absolute()

    def url(self) -> str:
        """Return the server's address; empty for W&B's own cloud."""
        return self.wandb_args.get("settings", {}).get("base_url") or base_url()

    def destination(self, workspace: Path) -> str:
        """Name the folder, or the server with entity and project."""
        if self.mode == "online":
            return f"{self.kind}:online:{host(self.url()) or 'wandb.ai'}/{self._project_path()}"
        return f"{self.kind}:{self.mode}:{self.folder(workspace)}"

    def environment(self) -> Mapping[str, str]:
        """Keep the SDK quiet, and its reports about itself at home."""
        return {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true", "WANDB_CONSOLE": "off"}

    def look(self, workspace: Path) -> str:
        """Upload what stands in the files, or name the page."""
        if self.mode == "offline":
            return f"wandb sync {shlex.quote(str(self.folder(workspace) / 'wandb'))}/offline-run-*"
        return f"{self._page()}/{self._project_path()}".rstrip("/") if self.mode == "online" else ""

    def _page(self) -> str:
        name = host(self.url())
        return f"{self.url().partition(':')[0]}://{name}" if name else "https://wandb.ai"

    def _project_path(self) -> str:
        names = (self.wandb_args.get("entity"), self.wandb_args.get("project"))
        return "/".join(name for name in names if name)


class _Run(Protocol):
    """What we use of the SDK's Run, whose own types are too wide for a strict checker."""

    config: Any
    summary: Any
    settings: Any
    tags: Sequence[str] | None

    @property
    def starting_step(self) -> int: ...
    def log(self, data: dict[str, Any], step: int, commit: bool) -> None: ...  # noqa: FBT001 - the SDK's
    def define_metric(self, name: str, **options: object) -> object: ...
    def mark_preempting(self) -> None: ...
    def finish(self, exit_code: int) -> None: ...


@dataclass(slots=True)
class _Awaited:
    """A record that must come to stand in the file.

    Attributes:
        number: Our row's number.
        keys: Keys of an update of the configuration; empty for a row of the history.
        upto: Number of the last row that is stored when it does.
    """

    number: int
    keys: tuple[str, ...]
    upto: int


class WandBSink(Sink[WandBConfig]):
    """Writes rows with our own row numbers as W&B's steps, and reads back from the SDK's file how far it got.

    `close(None)` must finish the W&B run too, or it would not be written: it is marked as preempted, with
    exit code 1. The next `open` goes on under the same id: offline in another folder, which `wandb sync`
    appends to the first.
    """

    def __init__(self, config: WandBConfig, workspace: Path) -> None:
        super().__init__(config, workspace)
        self._run: _Run | None = None
        self._log: WandBLog | None = None
        self._awaited: deque[_Awaited] = deque()
        self._stored = 0
        self._skip = 0
        self._ended = False

    def open(self, run: RunInfo, committed: Position) -> int:
        """Start or resume the W&B run, after reading what its files have.

        Raises:
            WorkspaceError: The folder can't be written.
            wandb.Error: The server gave no answer in time, or refused the key or the run.
        """
        self._stored = self._skip = committed.row
        if self.config.mode == "disabled":
            return self._skip
        folder = self.config.folder(self.workspace)
        files = run_files(folder / "wandb", run_id(run), self.config.mode)
        found = recover(files, _record_class())
        if found.damaged:
            self.counts["damaged file"] += found.damaged
        self._run = _start(self.config, init_arguments(self.config.wandb_args, run, found, folder), found)
        atexit.register(self._leave)
        self._log = _own_log(self._run, folder)
        server = max(self._run.starting_step - 1, 0)
        if self.config.mode == "online":
            for number, row in rows_after(files, _record_class(), server):
                self._run.log(row, step=number, commit=True)
        self._stored = self._skip = max(committed.row, found.row, server)
        return self._skip

    def write(self, rows: Sequence[Row]) -> None:
        """Log the rows that are new."""
        if self.config.mode == "disabled":
            self.counts["disabled"] += len(rows)
            self._stored = max((self._stored, *(row.number for row in rows)))
            return
        for change in changes(rows, self.counts):
            if change.number > self._skip:
                self._apply(change)

    def _apply(self, change: Change) -> None:
        run = cast("_Run", self._run)  # `open` came before
        if change.line:
            run.log(change.row(), step=change.number, commit=True)
            self._awaited.append(_Awaited(change.number, (), change.number))
        elif change.config:
            keys = _update(run, change.config)
            if OURS in keys:
                run.tags = run_tags(self.config.wandb_args, run.config)
            self._awaited.append(_Awaited(change.number, keys, change.number))
        elif self._awaited:
            self._awaited[-1].upto = change.number
        else:
            self._stored = change.number

    def flush(self) -> Position:
        """Read on in the file, and say which rows stand there by now."""
        if self._log is not None:
            for record in self._log.read():
                self._settle(record)
        return Position(self._stored)

    def _settle(self, record: Stored) -> None:
        """Strike off what a record proves: records reach the file in the order of the calls."""
        self._ended = self._ended or record.kind == "exit"
        awaited = self._awaited
        if record.kind == "config" and awaited and awaited[0].keys == tuple(record.items):
            self._stored = awaited.popleft().upto
        while record.kind == "history" and awaited and awaited[0].number <= record.step:
            self._stored = awaited.popleft().upto

    def close(self, status: RunStatus | None, reason: str = "") -> Position:
        """Finish the W&B run and wait until all of it stands in its file.

        Raises:
            NotDeliveredError: The file lacks rows.
            TimeoutError: The server didn't take all in time; it is on disk, and sent when the run is opened.
        """
        if self._run is not None:
            run, self._run = self._run, None
            atexit.unregister(self._leave)
            _mark(run, status, reason)
            run.finish(exit_code=_EXIT_CODES[status])
            self._wait_for_end()
        return Position(self._stored)

    def _leave(self) -> None:
        """Finish a run that is still open when the worker ends: left to the SDK, it would count as a success."""
        if self._run is not None:
            _mark(self._run, None, "")
            self._run.finish(exit_code=_EXIT_CODES[None])

    def _wait_for_end(self) -> None:
        """Wait for the exit record: the SDK's `finish` returns before its process has written the file."""
        deadline = time.monotonic() + FILE_TIMEOUT
        self.flush()
        while not self._ended and time.monotonic() < deadline:
            time.sleep(_POLL)
            self.flush()
        if self._awaited or not self._ended:
            raise NotDeliveredError(
                f"W&B's file has no end after {FILE_TIMEOUT:.0f} s and lacks {len(self._awaited)} records "
                f"from row {self._stored + 1} on: is the disk full?"
            )


def _record_class() -> Callable[[], Any]:
    # The SDK's protobuf classes are generated at import: no checker sees them.
    from wandb.proto import wandb_internal_pb2

    return cast("Any", wandb_internal_pb2).Record


def _own_log(run: _Run, folder: Path) -> WandBLog:
    """Return the file that the SDK now writes; if it can't write the folder, it quietly takes another."""
    file = Path(run.settings.sync_file)
    if folder not in file.parents:
        raise WorkspaceError(f"{folder} can't be written: W&B would use {file.parent}")
    return WandBLog(file, _record_class())


def _start(config: WandBConfig, arguments: dict[str, Any], found: Found) -> _Run:
    """Call `wandb.init`, and say what its rows mean."""
    _leave_other_sessions()
    try:
        import wandb
    except ImportError as error:
        raise MissingExtraError("W&B's SDK can't be loaded: pip install 'trackbus[wandb]'") from error
    is_online = config.mode == "online"
    run = cast("_Run", wandb.init(mode=cast("Any", config.mode), resume="allow" if is_online else None, **arguments))
    run.define_metric(STEP, hidden=True)
    run.define_metric("*", step_metric=STEP, step_sync=False)
    if found.summary and not is_online:
        run.summary.update(storable(found.summary, Counter()))
    return run


def _leave_other_sessions() -> None:
    """Forget the trainer's own W&B session, which a worker inherits by the environment."""
    for name in _FOREIGN:
        variable = f"WANDB_{name}"
        is_ours = name == "SERVICE" and f"-{os.getpid()}-" in os.environ.get(variable, "")
        if not is_ours:
            os.environ.pop(variable, None)


def _update(run: _Run, new: Mapping[str, Any]) -> tuple[str, ...]:
    """Merge into the run's configuration and return the keys that changed."""
    merged = {key: merge(run.config.get(key), value) for key, value in new.items()}
    run.config.update(merged, allow_val_change=True)
    return tuple(merged)


def _mark(run: _Run, status: RunStatus | None, reason: str) -> None:
    """Say how the run ended, beside the exit code; a run that goes on elsewhere was preempted."""
    if status is None:
        run.mark_preempting()
        return
    ours = cast("dict[str, Any]", run.config.get(OURS) or {})
    ended = {"tags": ours.get("tags"), "status": status.value, "reason": reason}
    run.config.update({OURS: {key: value for key, value in ended.items() if value}}, allow_val_change=True)


class WandBReceiver(Receiver):
    """Fills Weights & Biases.

    Args:
        mode: `offline` keeps all in files for `wandb sync`, `online` sends it as well, `disabled` drops it.
        wandb_args: What `wandb.init` takes: `project`, `entity`, `name`, `group`, `job_type`, `tags`, `notes`, ...
        options: `name`, `layout`, `flush`, `worker` and `python`, as `Receiver` takes them.
    """

    def __init__(
        self,
        mode: str = "offline",
        wandb_args: dict[str, Any] | None = None,
        **options: Unpack[ReceiverOptions],
    ) -> None:
        super().__init__(WandBConfig(mode=mode, wandb_args=wandb_args or {}), **options)
