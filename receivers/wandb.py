"""Weights & Biases: fills one W&B run per run and site, or one for all sites, offline in files or online at a server.

What becomes of each event is told in `receivers.matrix`. In detail:

* Metrics of one step that follow each other share a row of the history with the pictures and tables of that step; one
  of a `main_tag` is `main_tag/key`. The user's step is the field `global_step`, the x-axis of all charts whose
  definition names no other; W&B's own step is our row's number. Sites in one run have rows of their own on the one
  axis. `_timestamp` is when it was logged, not when it arrived.
* A text is a field of the history under its key, also where that is the path of a file.
* Parameters, configuration and hyperparameters are merged into the run's config, key by key.
* A model is registered when a run ends online. Artifacts without a kind, and what the SDK refuses, are files of the
  run; an artifact's lies below `kept/` where the SDK writes a file of that name itself.
* Tags stand in the config's `trackbus.tags`, and among the run's as `key=value` where W&B's 64 characters suffice.
* Exit code 0 is finished, 1 failed, 255 killed; the config's `trackbus.status` and `.reason` say so too.
* NaN and infinities are as they are in the history, and the words `NaN`, `Infinity`, `-Infinity` in the config.

The SDK acknowledges nothing. The proof that a row is stored is the SDK's own file on disk, in both modes: it
survives `kill -9`. Online, a row in that file may not have reached the server yet: what the server lacks is sent
from there when the run is opened the next time, and a run counts as ended only when the server itself says that it
has every row and the status. A server that takes nothing any more is noticed within a minute. Files that wait for
their upload lie beside the run's own file, and are sent again when the run is opened the next time; only an alert is
not, since a late one could be one too many: it is counted.

A run may have rows of another journal: of a workspace that is gone, or is on another machine. What is logged now goes
behind them; whose the last rows are stands in the summary's `_trackbus`.

This file must never be first on `sys.path` under the name `wandb`: start children with `python -P -m`.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Unpack, cast

from eventbus import Envelope, Event
from eventbus.errors import MissingExtraError, NotDeliveredError, WorkspaceError
from eventbus.tracking import RunStatus
from receivers._receiver import Receiver, ReceiverOptions
from receivers._wandb_args import init_arguments, leave_other_sessions, run_id
from receivers._wandb_calls import Calls, relabel
from receivers._wandb_config import WandBConfig
from receivers._wandb_file import STAGED, Found, WandBLog, recover, rows_after, run_files
from receivers._wandb_media import Fields
from receivers._wandb_metrics import Metrics
from receivers._wandb_proof import Proof, Proofs
from receivers._wandb_resend import ARTIFACTS, Registration, mark_sent, registration, resend, unsent
from receivers._wandb_rows import OURS, Change, changes, storable
from receivers._wandb_run import EXIT_CODES, Run, finish, mark, present, take_back_end, update
from receivers._wandb_server import ASK_TIMEOUT, TRANSMIT_SECONDS, RunPath, ServerRun, Standing
from receivers._wandb_share import SHARE, Held, share_of
from receivers.abc import NotAuthorisedError, Position, Row, RunInfo, Sink, TrackerRun, TrackerUnavailableError

FILE_TIMEOUT = 10.0
"""Seconds in which a finished run's last records must stand in its file; it takes some milliseconds."""

_logger = logging.getLogger("trackbus.worker")

_NOT_AUTHORISED = (401, 403)
_POLL = 0.01


class WandBSink(Sink[WandBConfig]):
    """Writes rows with our own row numbers as W&B's steps, and reads back from the SDK's file how far it got.

    `close(None)` must finish the W&B run too, or it would not be written: it is marked as preempted, with
    exit code 1. The next `open` goes on under the same id: offline in another folder, which `wandb sync`
    appends to the first.
    """

    def __init__(self, config: WandBConfig, workspace: Path) -> None:
        super().__init__(config, workspace)
        self._run: Run | None = None
        self._metrics: Metrics | None = None
        self._log: WandBLog | None = None
        self._server: ServerRun | None = None
        self._line = 0
        self._refused = "disabled" if config.mode == "disabled" else ""
        self._proofs = Proofs(Position(0), 0, 0)
        self._files: list[Path] = []
        self._models: dict[str, Registration] = {}
        self._skip = self._offset = 0  # our rows' numbers in W&B are theirs and the offset
        self._ended = False

    def open(self, run: RunInfo, committed: Position) -> int:
        """Start or resume the W&B run, after reading what its files have.

        Raises:
            WorkspaceError: The folder can't be written.
            TrackerUnavailableError: The server gave no answer in time, or refused the run.
            NotAuthorisedError: It refused the key.
        """
        self._skip = committed.row
        self._proofs = Proofs(committed, 0, 0)
        if self._refused:
            return self._skip
        folder = self.config.folder(self.workspace)
        os.environ["WANDB_DATA_DIR"] = str(folder / "wandb")  # where tables wait for their upload
        files = run_files(folder / "wandb", run_id(run), self.config.modes())
        found = recover(files, _record_class())
        if found.damaged:
            self.counts["damaged file"] += found.damaged
        arguments = init_arguments(self.config.wandb_args, run, found, folder)
        arguments["settings"]["finish_timeout"] *= self.batch_seconds / Sink.batch_seconds
        try:
            self._run = _start(self.config, arguments, found)
        except TrackerUnavailableError:
            if _look_up(arguments) is not None or not (files or committed.row):
                raise
            self._refused = "run deleted at the server"
            return self._skip
        self._metrics = Metrics(self._run, list(found.metrics.values()))
        self.tracker_run = TrackerRun(run_id(run), self._run.url or str(Path(self._run.settings.sync_file).parent))
        atexit.register(self._leave)
        self._log = _own_log(self._run, folder)
        self._files = [*files, Path(self._run.settings.sync_file)]
        server = self._go_online(self._run, files) if self.config.mode == "online" else 0
        self._take_share(self._run, str(run.started_ns), committed, found, max(found.row, server))
        return self._skip - self._offset

    def _take_share(self, run: Run, journal: str, committed: Position, found: Found, row: int) -> None:
        """Find out which of the rows that the run has are this journal's, and go on behind all of them."""
        at_server = str(run.summary.get(SHARE) or "") if self.config.mode == "online" else ""
        share = share_of(journal, committed, Held(row, found.singles, found.share, at_server))
        if share.offset and share.text not in (found.share, at_server):
            _logger.warning("%s holds rows of another journal: this one's go on behind row %s", run.id, row)
            if journal == found.share.partition(":")[0]:
                for _ in rows_after(unsent(self._files[:-1]), _record_class(), 0):
                    self.counts["rows that may not have been sent"] += 1
        run.summary.update({SHARE: share.text})
        self._offset = share.offset
        committed = committed._replace(row=committed.row + share.offset)
        self._skip = max(committed.row, row)
        self._proofs = Proofs(committed, self._skip, found.singles - share.singles)
        if take_back_end(run):
            self._proofs.expect(Proof("config", (OURS,)), self._skip)

    def _go_online(self, run: Run, files: Sequence[Path]) -> int:
        """Send what the files have and the server lacks; return the number of the last row that the server has."""
        interval = self.config.wandb_args.get("settings", {}).get("x_file_stream_transmit_interval")
        path = RunPath(run.entity, run.project, run.id)
        self._server = ServerRun(_asking(run.settings), path, interval or TRANSMIT_SECONDS)
        server = self._line = max(run.starting_step - 1, 0)
        for number, row in rows_after(files, _record_class(), server):
            self._log_fields(run, row, number)
            self._line = number
        resend(run, unsent(files), _record_class(), server, self.counts)
        return server

    def write(self, rows: Sequence[Row]) -> None:
        """Log the rows that are new."""
        rows = [row._replace(number=row.number + self._offset) for row in rows] if self._offset else rows
        if self._refused:
            self.counts[self._refused] += len(rows)
            self._proofs.pass_over(max((row.number for row in rows), default=0))
            return
        if self.config.fallback and self.config.mode == "offline":
            self.counts["recorded offline, for `wandb sync`"] += sum(row.number > self._skip for row in rows)
        for change in changes(rows, self.counts):
            if (change.is_single and self._proofs.is_recorded(change.number)) or change.number <= self._skip:
                self._proofs.pass_over(change.number)
            else:
                self._apply(change)

    def _apply(self, change: Change) -> None:
        run = cast("Run", self._run)  # `open` came before
        if change.config:
            keys = update(run, change.config)
            if OURS in keys:
                present(run, self.config.wandb_args)
            self._proofs.expect(Proof("config", keys), change.number, is_last=not change.line)
        if change.line:
            self._log_row(run, change)
        elif change.call is not None:
            self._call(run, change.number, change.call)
        elif not change.config:
            self._proofs.pass_over(change.number)

    def _log_row(self, run: Run, change: Change) -> None:
        if any(isinstance(value, Envelope) for value in change.line.values()):
            run.log({}, step=change.number, commit=False)  # the SDK names files by the step that it was told last
            with TemporaryDirectory(prefix=STAGED, dir=Path(run.settings.sync_file).parent) as folder:
                self._log_records(run, change, Path(folder))
        else:
            self._log_fields(run, change.line | change.rest(), change.number)
        self._line = change.number
        self._proofs.expect(Proof("history"), change.number)

    def _log_records(self, run: Run, change: Change, folder: Path) -> None:
        fields = Fields(_sdk(), run, self.blobs, self.counts, number=change.number, folder=folder)
        records = {key: value for key, value in change.line.items() if isinstance(value, Envelope)}
        line = {key: value for key, value in change.line.items() if key not in records} | change.rest()
        made: dict[str, Any] = {}
        for key, envelope in records.items():
            made |= fields.of(key, envelope)
        try:
            self._log_fields(run, made | line, change.number)
        except Exception as error:  # noqa: BLE001 - border: the SDK judges values once more as it records them
            for envelope in records.values():
                fields.refuse(envelope, error)
            self._log_fields(run, line, change.number)

    def _log_fields(self, run: Run, fields: dict[str, Any], number: int) -> None:
        cast("Metrics", self._metrics).cover(fields)
        run.log(fields, step=number, commit=True)

    def _call(self, run: Run, number: int, envelope: Envelope[Event]) -> None:
        folder = Path(run.settings.sync_file).parent / ARTIFACTS
        metrics = cast("Metrics", self._metrics)
        proof = Calls(_sdk(), run, self.blobs, self.counts, metrics=metrics, folder=folder).make(number, envelope)
        if proof is None:
            self._proofs.pass_over(number)
        else:
            self._proofs.expect(proof, number)

    def flush(self) -> Position:
        """Read on in the file, and say which rows stand there by now.

        Raises:
            TrackerUnavailableError: Online, the server takes nothing any more.
        """
        self._read_on()
        if self._server is not None:
            self._server.check(self._line)
        return self._position

    @property
    def _position(self) -> Position:
        position = self._proofs.position
        return position._replace(row=position.row - self._offset)

    def _read_on(self) -> None:
        for record in self._log.read() if self._log else ():
            self._ended = self._ended or record.kind == "exit"
            self._proofs.take(record)
            if (model := registration(record)) is not None:
                self._models[model.artifact] = model

    def close(self, status: RunStatus | None, reason: str = "") -> Position:
        """Finish the W&B run and wait until all of it stands in its file, and online at the server.

        Raises:
            NotDeliveredError: The file lacks rows.
            TrackerUnavailableError: The server didn't take all in time; it is on disk, and sent when the run is opened.
        """
        if self._run is not None:
            run, self._run = self._run, None
            atexit.unregister(self._leave)
            mark(run, status, reason)
            finish(run, EXIT_CODES[status])
            self._wait_for_end()
            if self._server is not None:
                self._server.confirm(self._line, status)
                self._register(self._server)
                mark_sent(self._files)
        return self._position

    def _register(self, server: ServerRun) -> None:
        """Register models, which are all there by now; who may not do that has them as artifacts."""
        for one in self._models.values():
            try:
                server.register(one.artifact, one.model, one.aliases)
            except TrackerUnavailableError as error:
                self.counts["model not registered"] += 1
                _logger.warning("model %s is not registered: %s", one.model, error)

    def _leave(self) -> None:
        """Finish a run that is still open when the worker ends: left to the SDK, it would count as a success."""
        if self._run is not None:
            mark(self._run, None, "")
            self._run.finish(exit_code=EXIT_CODES[None])

    def _wait_for_end(self) -> None:
        """Wait for the exit record: the SDK's `finish` returns before its process has written the file."""
        deadline = time.monotonic() + FILE_TIMEOUT
        self._read_on()
        while not self._ended and time.monotonic() < deadline:
            time.sleep(_POLL)
            self._read_on()
        if self._proofs.lacking or not self._ended:
            raise NotDeliveredError(
                f"W&B's file has no end after {FILE_TIMEOUT:.0f} s and lacks {self._proofs.lacking} records "
                f"from row {self._proofs.position.row + 1} on: is the disk full?"
            )


def _sdk() -> Any:
    # Its types are too wide for a strict checker.
    return import_module("wandb")


def _record_class() -> Callable[[], Any]:
    # The SDK's protobuf classes are generated at import: no checker sees them.
    from wandb.proto import wandb_internal_pb2

    return cast("Any", wandb_internal_pb2).Record


def _own_log(run: Run, folder: Path) -> WandBLog:
    """Return the file that the SDK now writes; if it can't write the folder, it quietly takes another."""
    file = Path(run.settings.sync_file)
    if folder not in file.parents:
        raise WorkspaceError(f"{folder} can't be written: W&B would use {file.parent}")
    return WandBLog(file, _record_class())


def _start(config: WandBConfig, arguments: dict[str, Any], found: Found) -> Run:
    """Call `wandb.init`, and say again what its earlier files say of the whole run."""
    leave_other_sessions()
    try:
        import wandb
    except ImportError as error:
        raise MissingExtraError("W&B's SDK can't be loaded: pip install 'trackbus[wandb]'") from error
    is_online = config.mode == "online"
    try:
        made = wandb.init(mode=cast("Any", config.mode), resume="allow" if is_online else None, **arguments)
    except wandb.Error as error:
        if is_online:
            raise TrackerUnavailableError(f"the run can't be opened at the server: {error}") from error
        raise
    run = cast("Run", made)
    relabel(run, found.labels)
    if found.summary and not is_online:
        run.summary.update(storable(found.summary, Counter()))
    return run


def _look_up(arguments: Mapping[str, Any]) -> Standing | None:
    """Return what a server has of a run that it doesn't open, or None if it has no such run (any more).

    Raises:
        TrackerUnavailableError: It doesn't answer.
        NotAuthorisedError: It refuses the key.
    """
    import wandb

    settings = wandb.setup().settings.model_copy()
    settings.update_from_dict(arguments["settings"])
    path = RunPath(arguments["entity"], arguments["project"], arguments["id"])
    return ServerRun(_asking(settings), path, TRANSMIT_SECONDS).standing()


def _asking(settings: Any) -> Callable[[str, Mapping[str, Any]], Any]:
    """Return what sends a GraphQL query by the SDK: with its key, its certificates, its proxy."""
    from wandb.apis.public.service_api import ServiceApi
    from wandb.sdk.lib.service import service_connection

    failed = cast("type[Exception]", service_connection.WandbApiFailedError)  # without types, as what it holds
    service = ServiceApi(settings, timeout=ASK_TIMEOUT)

    def ask(query: str, variables: Mapping[str, Any]) -> Any:
        try:
            return service.execute_graphql(query, variables)
        except failed as error:
            status: int = getattr(cast("Any", error).response, "http_status", 0)
            said = f"says {status}" if status else "does not answer"
            kind = NotAuthorisedError if status in _NOT_AUTHORISED else TrackerUnavailableError
            raise kind(f"the server {said}: {error}") from error

    return ask


class WandBReceiver(Receiver):
    """Fills Weights & Biases.

    Args:
        given: `mode`, `wandb_args`, or both, in either order: NVFLARE has the dict first.
        mode: `offline` keeps all in files for `wandb sync`, `online` sends it as well, `disabled` drops it.
        wandb_args: What `wandb.init` takes: `project`, `entity`, `name`, `group`, `job_type`, `tags`, `notes`, ...
        fallback: With `offline`, an online receiver without a key or a server records offline.
        process_timeout: Accepted, as NVFLARE has it: `worker` holds the deadlines.
        options: `name`, `layout`, `flush`, `worker` and `python`, as `Receiver` takes them.
    """

    def __init__(
        self,
        *given: str | dict[str, Any],
        mode: str = "offline",
        wandb_args: dict[str, Any] | None = None,
        fallback: Literal["offline"] | None = None,
        process_timeout: float | None = None,  # noqa: ARG002 - accepted
        **options: Unpack[ReceiverOptions],
    ) -> None:
        for value in given:
            if isinstance(value, str):
                mode = value
            else:
                wandb_args = value
        super().__init__(WandBConfig(mode=mode, wandb_args=wandb_args or {}, fallback=fallback), **options)
