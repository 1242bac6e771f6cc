"""MLflow: one run per site, or one for all, through MlflowClient, into SQLite, another database or a tracking server.

A run is found again by its tag `trackbus.run`, `<run id>@<site>` (`<run id>@` where it holds all sites), in the
experiment of its group; the tags `trackbus.site` and `trackbus.group` tell the rest.

What becomes of each event is told in `receivers.matrix`. In detail:

* A metric has the caller's time in ms; what has no step has step 0. The model that it names may come later, and numbers
  of a model's own step are linked with it too. Hyperparameters lie below `<run_name>/` where they have one.
* Of a param, logged or of the configuration (by its dotted path, lists as JSON), the first value stays; a later one is
  the tag `trackbus.param.<key>`. Of a tag the last value counts.
* A text or a file under a path replaces an earlier one there; texts of a key are
  `text/<key>/<step>-<incarnation>-<seq>.txt`, and all stay.
* Pictures of a key and a step have a small twin, as the page wants it, and captions beside. Rows are appended to a
  table of the same path where that was asked for. A model is an output of the run.
* The run has the tags `trackbus.name` and `trackbus.group`, and in the end FINISHED, FAILED or KILLED with the tag
  `trackbus.reason`.

All of it may come again and is there once: files replace themselves, models and versions are found by the record that
they were made from (tag `trackbus.model`), and the tag `trackbus.table.<path>` tells where the last rows of a table
begin. Each file may take as long as its size allows, see `receivers._mlflow_files.SLOWEST`; where one takes longer the
tracker counts as hanging, and the file is sent again.

What MLflow can't hold is stored as it can, and counted:

* `infinite metric clamped`: MLflow keeps an infinity as 1.797e308. NaN stays NaN.
* `merged`: points of one key with equal step, value and millisecond are one point there, which is also why
  redelivered rows change nothing.
* `renamed key`, `renamed file`: MLflow takes letters, digits and `_ - . space : /` in a normal relative path, and more
  in those of files. Anything else becomes its code (`%` is `_x25_`); the tag `trackbus.key.<new key>` holds what a key
  was.
* `cut param`, `cut tag`: over 6000 or 8000 characters.
* `param changed`: see above.
* `artifact path taken`: a file's path runs through an earlier file; it is stored under `taken/`, a text `text/taken/`.
  Of two files of a model under one path the first stays; such a model is FAILED.
* `kept as a file: <event>`: a tensor, mesh, graph, embedding or arrangement of charts.
* `payload missing: <event>`: a file that the event names can't be had; the rest is stored. A model is FAILED then.
* `unreadable MLmodel`: the description of a model that is none; the model is stored as it is.
* `cut dataset`: a digest over 36 characters, a name over 500 or a label over 500 is cut; a source, schema or profile
  that is too long is left out.
* `refused by MLflow: <event>`: what it holds itself makes MLflow refuse it: an artifact below `refused/` says what it
  held, the worker's log why.
* `unknown model`: numbers of a model that did not come; they are stored without it.
* `no small picture`: Pillow can't read a picture, or it has over 16 million pixels; it is stored as it is.
* `table not listed`: MLflow's page shows some hundred tables of a run; this one is stored, and not among them.
* `unsupported <event>`: not stored: a kind of your own.
* `twin removed`: an empty second run, which a slow server made after we had given the request up; it is in the bin.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Unpack

from eventbus.tracking import RunStarted, RunStatus
from receivers._batch import FlushPolicy
from receivers._mlflow_config import REQUEST_SECONDS, SHARE, TIMEOUT, MLflowConfig
from receivers._mlflow_draft import MAX_KEY_LENGTH, MAX_TAG_LENGTH, Draft, Point, as_tags, chunks, in_ms
from receivers._mlflow_files import RunFiles
from receivers._mlflow_uploads import Uploads
from receivers._mlflow_uri import (
    has_timed_out,
    is_server,
    one_at_a_time,
    redacted,
    redacting,
    run_page,
    sqlite_uri,
    store_file,
)
from receivers._names import escape, shorten
from receivers._receiver import Receiver, ReceiverOptions
from receivers.abc import Position, Row, RunInfo, Sink, TrackerLostError, TrackerRun, TrackerUnavailableError

MAX_METRICS, MAX_PARAMS, MAX_TAGS = 1000, 100, 100
MAX_METRICS_AT_SERVER = 250  # what a busy server stores well within REQUEST_SECONDS; it took 7 s for 1000
MAX_EXPERIMENT_LENGTH = 500

MAX_TWINS = 100
"""Runs that requests which we had given up may have made; each takes at least REQUEST_SECONDS."""

RUN_TAG = "trackbus.run"
REASON_TAG = "trackbus.reason"

PARENT_TAG = "mlflow.parentRunId"
NAME_TAG = "mlflow.runName"


class MLflowSink(Sink[MLflowConfig]):
    """Fills one run of MLflow. An exact repeat changes nothing there, so rows are simply sent again."""

    _client: Any
    _found: Any
    _find: Callable[[], list[Any]]
    _row: int
    _last_ms: int | None
    _running: bool
    _draft: Draft
    _run: RunInfo
    _name: str | None
    _parent: str
    _uploads: Uploads

    def open(self, run: RunInfo, committed: Position) -> int:
        """Find the run or create it.

        Raises:
            MLflowError: The store can't be opened.
            TrackerLostError: It has lost the run, and with it what was stored.
            TrackerUnavailableError: It can't be reached, is overloaded, or refuses the user.
        """
        self._row, self._last_ms = committed.row, None
        self._run, self._name, self._parent = run, None, ""
        uri = self.config.uri(self.workspace)
        self._bound_requests()
        with self._asking(), one_at_a_time(uri):
            _create_store(store_file(uri), self.config.artifacts(self.workspace))
            self._client = import_module("mlflow.tracking").MlflowClient(tracking_uri=uri)
            experiment = self._experiment(run, committed.token)
            self._find = partial(_find_runs, self._client, experiment, _identity(run.id, run.site))
            found = sorted(self._find(), key=lambda one: (one.info.run_id != committed.token, _is_empty(one)))
            if not found and committed.row:
                raise TrackerLostError(_lost(uri, run, committed.row))
            self._found = found[0] if found else self._create_run(experiment, run)
        self.tracker_run = TrackerRun(self._found.info.run_id, run_page(uri, experiment, self._found.info.run_id))
        self._running = self._found.info.status == "RUNNING" and self._found.info.lifecycle_stage == "active"
        self._draft = Draft(self.counts, self._found.data.params, self._found.data.tags)
        files = RunFiles(self._client, self._found.info.run_id, self.workspace, self.counts, self._go_on_for)
        files.remove_left_behind()
        self._uploads = Uploads(self._client, self._found, files, self.blobs)
        return self._row

    def write(self, rows: Sequence[Row]) -> None:
        """Send the rows that are new. A run that had ended goes on with them.

        Raises:
            MLflowError: A request was refused; what was stored before it stays, and may be sent again.
            TrackerUnavailableError: There was no answer, or none that says anything about the rows.
        """
        fresh = [row for row in rows if row.number > self._row]
        if not fresh:
            return
        for row in fresh:
            self._draft.add(row)
        with self._asking():
            self._go_on()
            self._send(self._draft)
        self._draft.clear()
        self._row, self._last_ms = fresh[-1].number, in_ms(fresh[-1].envelope.time_ns)

    def flush(self) -> Position:
        """Return the last row: MLflow has stored a batch when its call returns."""
        return Position(self._row, self._found.info.run_id)

    def close(self, status: RunStatus | None, reason: str = "") -> Position:
        """End the run as it ended."""
        if status is not None:
            run_id = self._found.info.run_id
            with self._asking():
                self._name_parent()
                if reason:
                    self._client.set_tag(run_id, REASON_TAG, reason[:MAX_TAG_LENGTH])
                self._client.set_terminated(run_id, status.value, self._last_ms)
                self._remove_twins()
        self._uploads.forget()
        return self.flush()

    def _remove_twins(self) -> None:
        """Remove what a request to create the run made after we had given it up, and asked again."""
        for twin in self._find():
            is_ours = twin.info.run_id == self._found.info.run_id
            if not is_ours and _is_empty(twin) and twin.info.lifecycle_stage == "active":
                self._client.delete_run(twin.info.run_id)
                self.counts["twin removed"] += 1

    def abandon(self) -> bool:
        """Do nothing: the client keeps no state, and what was sent may be sent again."""
        return True

    @contextmanager
    def _asking(self) -> Generator[None]:
        """Map what MLflow raises, and give the next request more time if this one had too little."""
        try:
            with redacting(self.config.uri(self.workspace)):
                yield
        except TrackerUnavailableError as error:
            if has_timed_out(error):
                self._bound_requests(2)
            raise

    def _go_on_for(self, seconds: float) -> None:
        """Take time by the worker's call of now: the next one has its own."""
        self.take_time(seconds)

    def _bound_requests(self, factor: int = 1) -> None:
        """Give requests so many times more seconds than now, within a batch's deadline."""
        longest = max(1, int(self.batch_seconds * SHARE))
        os.environ[TIMEOUT] = str(min(factor * int(os.environ.get(TIMEOUT, REQUEST_SECONDS)), longest))

    def _experiment(self, run: RunInfo, run_id: str) -> str:
        """Return the id of the experiment that holds the run, or else of that of its group, made anew if need be."""
        name = shorten(self.config.option("experiment_name") or run.group or "trackbus", MAX_EXPERIMENT_LENGTH)
        by_name = self._client.get_experiment_by_name
        found = (run_id and self._experiment_of(run_id)) or by_name(name) or self._create_experiment(name)
        if found.lifecycle_stage != "active":
            self._client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _experiment_of(self, run_id: str) -> Any:
        """Return the experiment that holds a run, whatever it is called by now; None where no such run is."""
        with _nothing_where_missing():
            return self._client.get_experiment(self._client.get_run(run_id).info.experiment_id)

    def _create_experiment(self, name: str) -> Any:
        tags = as_tags(self.config.tags("experiment_tags"))
        refused = import_module("mlflow.exceptions").MlflowException
        try:
            self._client.create_experiment(name, self.config.artifacts(self.workspace), tags)
        except refused:
            if self._client.get_experiment_by_name(name) is None:  # else another worker was faster
                raise
        return self._client.get_experiment_by_name(name)

    def _create_run(self, experiment: str, run: RunInfo) -> Any:
        tags = as_tags(self.config.tags("run_tags"))
        own_name = self.config.option("run_name")
        title = run.titled(own_name) if own_name else tags.pop("mlflow.runName", run.title)
        tags |= {RUN_TAG: _identity(run.id, run.site), "trackbus.group": run.group}
        tags |= {"trackbus.site": run.site} if run.site else {}
        return self._client.create_run(experiment, in_ms(run.started_ns), tags, shorten(title, MAX_KEY_LENGTH))

    def _go_on(self) -> None:
        """Set a run that had ended, or that somebody deleted, running again."""
        if self._running:
            return
        info = self._found.info
        if info.lifecycle_stage != "active":
            self._client.restore_run(info.run_id)
        self._client.update_run(info.run_id, status="RUNNING")
        if REASON_TAG in self._found.data.tags:
            self._client.delete_tag(info.run_id, REASON_TAG)
        self._running = True

    def _send(self, draft: Draft) -> None:
        entities, run_id = import_module("mlflow.entities"), self._found.info.run_id
        for event in draft.started:
            self._learn(event)
        for params in chunks(draft.params.items(), MAX_PARAMS):
            self._client.log_batch(run_id, params=[entities.Param(*param) for param in params])
        for tags in chunks(((key, tag) for key, tag in draft.tags.items() if tag is not None), MAX_TAGS):
            self._client.log_batch(run_id, tags=[entities.RunTag(*tag) for tag in tags])
        for key in (key for key, tag in draft.tags.items() if tag is None):
            self._delete_tag(key)
        self._send_points(self._uploads.link(draft.metrics))
        self._send_points(self._uploads.store(draft.uploads))
        self._name_parent()

    def _send_points(self, points: Sequence[Point]) -> None:
        metric = import_module("mlflow.entities").Metric
        at_server = is_server(self.config.uri(self.workspace))
        for part in chunks(points, MAX_METRICS_AT_SERVER if at_server else MAX_METRICS):
            self._client.log_batch(self._found.info.run_id, metrics=[metric(*point) for point in part])

    def _delete_tag(self, key: str) -> None:
        """Take a tag away; one that is not there, or not any more, is fine."""
        with _nothing_where_missing():
            self._client.delete_tag(self._found.info.run_id, key)

    def _learn(self, event: RunStarted) -> None:
        """Take over below which other run it stands, and what it is called if that has changed since it was opened."""
        self._parent = event.parent
        before, self._name = self._name, event.name
        is_named = self.config.option("run_name") or NAME_TAG in self.config.tags("run_tags")
        if not is_named and before not in (None, event.name):
            self._draft.tags[NAME_TAG] = shorten(self._run.titled(event.name), MAX_KEY_LENGTH)

    def _name_parent(self) -> None:
        """Show the run below its parent, as soon as that is there."""
        if not self._parent:
            return
        info = self._found.info
        found = _find_runs(self._client, info.experiment_id, _identity(self._parent, self._run.site))
        if found:
            self._client.set_tag(info.run_id, PARENT_TAG, found[0].info.run_id)
            self._parent = ""


@contextmanager
def _nothing_where_missing() -> Generator[None]:
    """Go on behind the block where MLflow does not have what it asks for."""
    refused = import_module("mlflow.exceptions").MlflowException
    try:
        yield
    except refused as error:
        if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
            raise


def _create_store(file: Path | None, artifacts: str | None) -> None:
    """Create a SQLite store under another name first: one that is left amid its migrations opens never again."""
    if file is None or (file.exists() and file.stat().st_size):
        return
    draft = file.with_name(f".{file.name}-draft")
    for rest in file.parent.glob(f"{draft.name}*"):
        rest.unlink()
    store = import_module("mlflow.store.tracking.sqlalchemy_store").SqlAlchemyStore(sqlite_uri(draft), artifacts)
    store.engine.dispose()
    draft.replace(file)


def _identity(run_id: str, site: str) -> str:
    return escape(f"{run_id}@{site}", r"['\"\\]")


def _find_runs(client: Any, experiment: str, identity: str) -> list[Any]:
    everything = import_module("mlflow.entities").ViewType.ALL
    return list(client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{identity}'", everything, MAX_TWINS))


def _is_empty(found: Any) -> bool:
    return not (found.data.metrics or found.data.params)


def _lost(uri: str, run: RunInfo, rows: int) -> str:
    return (
        f"{redacted(uri)} has no run {run.title} any more, but {rows} rows of it were stored: restore the store, or "
        "replay the run with a receiver of another name and store"
    )


class MLflowReceiver(Receiver):
    """Fills MLflow: a SQLite store in the workspace, or any tracking URI.

    Batches are smaller than elsewhere: a busy tracking server must store one well within the deadline.

    Args:
        tracking_uri: A database or a tracking server, as MLflow reads it; by default `mlflow.db` in the workspace. A
            relative path, `sqlite:///my.db`, begins at the folder in which the receiver is made.
        kw_args: `experiment_name`, `run_name`, `experiment_tags`, `run_tags`.
        artifact_location: Where a new experiment keeps its artifacts: a URI, or a folder in the workspace.
        buffer_flush_time: Accepted, as NVFLARE has it: `flush` says when batches are written.
        options: `name`, `layout`, `flush`, `worker` and `python`, as `Receiver` takes them.
    """

    default_flush = FlushPolicy(max_items=500)

    def __init__(
        self,
        tracking_uri: str | None = None,
        kw_args: dict[str, Any] | None = None,
        artifact_location: str | None = None,
        *,
        buffer_flush_time: float | None = None,  # noqa: ARG002 - accepted
        **options: Unpack[ReceiverOptions],
    ) -> None:
        super().__init__(
            MLflowConfig(tracking_uri=tracking_uri, kw_args=kw_args, artifact_location=artifact_location), **options
        )
