"""Models of one run of MLflow: made once, however often their record comes, filled, and registered."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from eventbus.errors import BlobError
from receivers._json import as_json
from receivers._mlflow_draft import MAX_KEY_LENGTH, MAX_PARAM_LENGTH, as_tags
from receivers._mlflow_files import TAKEN, RunFiles, lay
from receivers._names import escape, relative_path, shorten

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from eventbus.artifacts import ModelLogged
    from eventbus.blobs import BlobReader
    from receivers._mlflow_draft import Point, Upload

MODEL_TAG = "trackbus.model"
"""Tag of a model and of its registered version: which record it was made from."""

VERSIONS_TAG = "mlflow.modelVersions"
"""Where MLflow's page finds the registered versions of a model."""

DEFAULT_URI = "MLFLOW_TRACKING_URI"

MLMODEL = "MLmodel"
"""The file that says what a folder of MLflow's holds."""

REFERENCES = "trackbus.references.json"
"""The file that says which files of a model lie elsewhere."""

_OWN_ID = re.compile(r"m-[0-9a-f]{32}")
_REFUSED_IN_NAMES = r"[/:.%\"']"
_REFUSED_IN_REGISTRY = r"[/:]"
_THERE = ("RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS")


class Models:
    """The models of one run.

    Args:
        client: MLflow's client.
        run: The run, as MLflow has it.
        files: Its files.
        blobs: Finds what the models consist of.
    """

    def __init__(self, client: Any, run: Any, files: RunFiles, blobs: BlobReader) -> None:
        self._client = client
        self._run_id, self._experiment = run.info.run_id, run.info.experiment_id
        self._files = files
        self._blobs = blobs
        self._known: dict[str, str] | None = None
        inputs, outputs = getattr(run, "inputs", None), getattr(run, "outputs", None)
        self._inputs = {link.model_id for link in (inputs.model_inputs if inputs else ())}
        self._outputs = {link.model_id: link.step for link in (outputs.model_outputs if outputs else ())}

    def store(self, event: ModelLogged, upload: Upload) -> None:
        """Store a model that the run made, or link one that is there."""
        if not event.files:
            self._link(event)
            return
        envelope = upload.row.envelope
        mark = f"{self._run_id}-{envelope.origin.incarnation}-{envelope.seq}"
        model = self._found(f"tags.`{MODEL_TAG}` = '{mark}'") or self._create(event, mark, upload.params)
        self._note(event.key, model.model_id)
        self._link_output(model.model_id, event.step or 0)
        if str(model.status) != "READY":
            self._fill(model, event)
        if event.registered_name:
            self._register(model, event, mark)

    def find(self, name: str) -> str | None:
        """Return MLflow's id of a model by its name, of several the last one's, or that id itself; None for none."""
        if _OWN_ID.fullmatch(name):
            return name if self._exists(name) else None
        if self._known is None:
            self._known = {}
            mine = self._search(f"source_run_id = '{self._run_id}'")
            for model in sorted(mine, key=lambda one: (one.creation_timestamp, one.model_id)):
                self._known[model.tags.get(f"{MODEL_TAG}.name", model.name)] = model.model_id
        return self._known.get(name)

    def link_input(self, model_id: str) -> None:
        """Say that the run used a model, unless it made it."""
        if model_id not in self._inputs and model_id not in self._outputs:
            entity = import_module("mlflow.entities").LoggedModelInput(model_id)
            self._client.log_inputs(self._run_id, models=[entity])
            self._inputs.add(model_id)

    def link_steps(self, points: Sequence[Point]) -> list[Point]:
        """Link numbers with the models that the run made at their steps, as MLflow's own functions do."""
        made: dict[int, list[str]] = {}
        for model_id, step in self._outputs.items():
            made.setdefault(step, []).append(model_id)
        return [
            point._replace(model_id=model_id)
            for point in points
            for model_id in (made.get(point.step, [None]) if point.model_id is None else [point.model_id])
        ]

    def _link(self, event: ModelLogged) -> None:
        model_id = self.find(event.key)
        if model_id is None:
            self._files.counts["unknown model"] += 1
        elif event.is_input:
            self.link_input(model_id)
        else:
            self._link_output(model_id, event.step or 0)

    def _link_output(self, model_id: str, step: int) -> None:
        if model_id in self._outputs:
            return
        entity = import_module("mlflow.entities").LoggedModelOutput(model_id, step)
        self._client.log_outputs(self._run_id, [entity])
        self._outputs[model_id] = step

    def _create(self, event: ModelLogged, mark: str, params: Mapping[str, str]) -> Any:
        kind = event.metadata.get("model_type")
        name = self._named(event.key, _REFUSED_IN_NAMES)
        return self._client.create_logged_model(
            self._experiment,
            name,
            self._run_id,
            {**_tags_of(event), MODEL_TAG: mark, f"{MODEL_TAG}.name": event.key},
            {key: value[:MAX_PARAM_LENGTH] for key, value in {**event.params, **params}.items()},
            kind if isinstance(kind, str) else None,
        )

    def _named(self, name: str, refused: str) -> str:
        """Return a name as MLflow takes it; another one is counted."""
        safe = shorten(escape(name, refused), MAX_KEY_LENGTH)
        if safe != name:
            self._files.counts["renamed key"] += 1
        return safe

    def _fill(self, model: Any, event: ModelLogged) -> None:
        with self._files.folder() as top:
            elsewhere = {file.path: file.reference for file in event.files if file.blob is None}
            if elsewhere:
                lay(top / REFERENCES, as_json(elsewhere).encode())
            laid = [self._lay(top / relative_path(file.path), file.blob) for file in event.files if file.blob]
            if (top / MLMODEL).is_file():
                self._sign(top, model)
            self._files.expect(sum(file.blob.size for file in event.files if file.blob is not None))
            self._client.log_model_artifacts(model.model_id, str(top))
        self._client.finalize_logged_model(model.model_id, "READY" if all(laid) else "FAILED")

    def _lay(self, place: Path, blob: Any) -> bool:
        try:
            lay(place, self._blobs.path(blob))
        except BlobError:
            self._files.counts["payload missing: ModelLogged"] += 1
            return False
        except TAKEN:
            self._files.counts["artifact path taken"] += 1
            return False
        return True

    def _sign(self, top: Path, model: Any) -> None:
        """Write into a copy of the model's description which model of which run it is; one that is none stays."""
        place, signed = top / MLMODEL, top / f".{MLMODEL}"
        try:
            described = import_module("mlflow.models").Model.load(str(place))
            described.run_id, described.model_id = self._run_id, model.model_id
            described.model_uuid, described.artifact_path = model.model_id, model.artifact_location
            described.save(str(signed))
            signed.replace(place)  # never written in place: it may be another name of the blob
        except Exception:  # noqa: BLE001 - border: MLflow takes apart what others have saved; the model is stored as it is
            signed.unlink(missing_ok=True)
            self._files.counts["unreadable MLmodel"] += 1

    def _register(self, model: Any, event: ModelLogged, mark: str) -> None:
        name = self._named(event.registered_name, _REFUSED_IN_REGISTRY)
        refused = import_module("mlflow.exceptions").MlflowException
        tags = {**as_tags(_tags_of(event)), MODEL_TAG: mark}
        try:
            self._client.create_registered_model(name)
        except refused as error:
            if getattr(error, "error_code", "") not in _THERE:
                raise
        version = self._version(name, mark)
        if version is None:
            with self._as_default():
                version = self._client.create_model_version(
                    name, f"models:/{model.model_id}", tags=tags, await_creation_for=0, model_id=model.model_id
                )
        entry = json.dumps([{"name": name, "version": version.version}])
        if model.tags.get(VERSIONS_TAG) != entry:
            self._client.set_logged_model_tags(model.model_id, {VERSIONS_TAG: entry})

    @contextmanager
    def _as_default(self) -> Generator[None]:
        """Make the store the default one: the registry in a database looks there for the model, whatever the client."""
        before = os.environ.get(DEFAULT_URI)
        os.environ[DEFAULT_URI] = self._client.tracking_uri
        try:
            yield
        finally:
            del os.environ[DEFAULT_URI]
            os.environ |= {} if before is None else {DEFAULT_URI: before}

    def _version(self, name: str, mark: str) -> Any:
        found = self._client.search_model_versions(
            f"name = '{escape(name, chr(39))}' and tags.`{MODEL_TAG}` = '{mark}'"
        )
        return found[0] if found else None

    def _found(self, wanted: str) -> Any:
        return next(iter(self._search(wanted)), None)

    def _search(self, wanted: str) -> list[Any]:
        found: list[Any] = []
        token = None
        while True:
            page = self._client.search_logged_models([self._experiment], wanted, page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    def _exists(self, model_id: str) -> bool:
        refused = import_module("mlflow.exceptions").MlflowException
        try:
            self._client.get_logged_model(model_id)
        except refused as error:
            if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return True

    def _note(self, name: str, model_id: str) -> None:
        self.find(name)
        if self._known is not None:
            self._known[name] = model_id


def _tags_of(event: ModelLogged) -> dict[str, str]:
    """Return a model's labels: whoever logged it may have put something else in their place."""
    given = event.metadata.get("tags")
    return {key: str(value) for key, value in given.items()} if isinstance(given, Mapping) else {}
