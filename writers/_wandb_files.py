"""How a W&B look-alike logs files: artifacts, models, code, and plain files of the run."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from eventbus.artifacts import MAX_FILES, ArtifactFile, ArtifactLogged, ModelLogged
from eventbus.errors import BadInputError
from writers._artifacts import artifact_path, files_of, path_of
from writers._keys import shown
from writers._runs import runs_of
from writers._wandb_artifact import Artifact, SavedFiles, artifact_at, artifact_of, safe_name
from writers._wandb_facts import RunFacts
from writers._wandb_log import recorded
from writers._wandb_real import real_name
from writers._wandb_saved import Saved

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventbus import Receipt
    from eventbus.blobs import BlobStore
    from eventbus.tracking import TrackingEvent

FILES = "files"
"""Key of the plain files of a run."""

_CODE = (".py", ".ipynb")
_LEFT_OUT = {"wandb", ".wandb", ".git", "__pycache__", "node_modules", ".venv"}
_ADVICE = {
    "link_artifact": "link it at the server, or log a model with link_model(path, registered_model_name)",
    "use_artifact": "what lies at the server can't be fetched through a bus: use wandb.Api().artifact(name)",
    "use_model": "what lies at the server can't be fetched through a bus: use wandb.Api().artifact(name)",
    "restore": "what lies at the server can't be fetched through a bus: use wandb.Api().run(path).file(name)",
    "upsert_artifact": "gather the files in one process and log them with log_artifact",
    "finish_artifact": "gather the files in one process and log them with log_artifact",
}


def is_code(path: str) -> bool:
    """Tell whether a file is one of those that `log_code` takes by default."""
    name = os.path.basename(path)  # noqa: PTH119 - a str is what callers' functions get, and speed is of no matter
    return name.endswith(_CODE[0]) or name == "requirements.txt" or "dockerfile" in name.lower()


def is_left_out(path: str, root: str) -> bool:
    """Tell whether a file is one of those that `log_code` leaves out by default."""
    return not _LEFT_OUT.isdisjoint(Path(path).relative_to(root).parts)


class RunFiles(RunFacts):
    """Files of a run. Each is kept as it is when it is logged; the caller may change or delete it afterwards."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        workspace = self.tracking.bus.workspace
        self._saved = Saved(None if workspace is None else workspace / "files" / self.id)
        self._is_saved_at_end = False

    @property
    def dir(self) -> str:
        """Folder for files of the run: what lies there when the run ends is logged.

        It is `files/<run id>` in the folder of the bus; empty where the bus has none.
        """
        self._save_at_end()
        return self._saved.folder()

    def log_artifact(
        self,
        artifact_or_path: Any,
        name: str | None = None,
        type: str | None = None,
        aliases: list[str] | None = None,
        tags: list[str] | None = None,
    ) -> Artifact:
        """Log an artifact that the run made.

        Args:
            artifact_or_path: An artifact, ours or the SDK's; or the path of a file or folder, or an address.
            name: Its name where a path is given; by default of the run and the path.
            type: Its kind where a path is given.
            aliases: Names of this version.
            tags: Labels of this version.

        Returns:
            The artifact, whose `wait()` returns when the receivers have stored it.

        Raises:
            BadInputError: It can't be logged, and bad input raises.
        """
        return self._log(artifact_or_path, name, type or "unspecified", aliases, _made, tags)

    def use_artifact(
        self,
        artifact_or_name: Any,
        type: str | None = None,
        aliases: list[str] | None = None,
        use_as: str | None = None,
    ) -> Artifact:
        """Log an artifact that the run used.

        Args:
            artifact_or_name: An artifact, ours or the SDK's; or the path of a file or folder. The bare name of one at
                the server is refused: nothing is fetched through a bus.
            type: Its kind where a path is given.
            aliases: Names of this version.
            use_as: Accepted, as W&B does.

        Raises:
            BadInputError: It can't be logged, and bad input raises.
        """
        if isinstance(artifact_or_name, str) and not os.path.exists(artifact_or_name):  # noqa: PTH110 - may be no path at all
            self._refuse("use_artifact")
            return Artifact(safe_name(artifact_or_name), type or "unspecified")
        return self._log(artifact_or_name, None, type or "unspecified", aliases, _used)

    def log_model(self, path: Any, name: str | None = None, aliases: list[str] | None = None) -> Artifact:
        """Log the files of a model.

        Args:
            path: A file or a folder.
            name: Its name; by default of the run and the path.
            aliases: Names of this version.

        Raises:
            BadInputError: It can't be logged, and bad input raises.
        """
        return self._log(path, name, "model", aliases, _model)

    def link_model(
        self, path: Any, registered_model_name: str, name: str | None = None, aliases: list[str] | None = None
    ) -> Artifact:
        """Log the files of a model, and have it registered.

        Args:
            path: A file or a folder.
            registered_model_name: Under which name.
            name: Its name; by default of the run and the path.
            aliases: Names of this version.

        Raises:
            BadInputError: It can't be logged, and bad input raises.
        """
        return self._log(path, name, "model", aliases, partial(_model, registered=registered_model_name))

    def save(self, glob_str: Any, base_path: Any = None, policy: str = "live", glob: bool = True) -> SavedFiles:
        """Log files of the run as they are now.

        Args:
            glob_str: Their path, or a pattern of their paths.
            base_path: Folder that their paths in the run are relative to; by default the working directory, for a path
                below the run's `dir` that, and for any other absolute path the folder above that which holds them.
            policy: `now`: once. `live` and `end`: now, and once more when the run ends if they changed.
            glob: Whether `glob_str` is a pattern.

        Returns:
            The files, with a `wait()` that returns when the receivers have stored them.

        Raises:
            BadInputError: One can't be logged, or the policy is not known, and bad input raises.
        """
        try:
            found = self._saved.find(glob_str, base_path, policy, is_pattern=glob)
        except BadInputError as error:
            self.tracking.intake.bad.note("save", error)
            found = []
        self._save_at_end()
        return SavedFiles([str(path) for path, _ in found], self._save(found, self.tracking.intake.bad.note))

    def log_code(
        self,
        root: str | None = ".",
        name: str | None = None,
        include_fn: Callable[..., bool] = is_code,
        exclude_fn: Callable[..., bool] = is_left_out,
    ) -> Artifact | None:
        """Log the source code in a folder.

        Args:
            root: The folder.
            name: Name of the artifact; by default of the project.
            include_fn: Tells of a path, or of a path and the root, whether the file is taken.
            exclude_fn: Tells of a path, or of a path and the root, whether the file is left out.

        Returns:
            The artifact; None if there is no such file, or bad input was counted.

        Raises:
            BadInputError: A file can't be logged, and bad input raises.
        """
        try:
            top = path_of(root or ".")
            files = [path for path in sorted(top.rglob("*")) if path.is_file()]
            wanted = [path for path in files if _says(include_fn, path, top) and not _says(exclude_fn, path, top)]
            code = _code(name or safe_name(f"source-{self.project or self.id}"), top, wanted)
        except BadInputError as error:
            self.tracking.intake.bad.note("log_code", error)
            return None
        return self.log_artifact(code) if wanted else None

    def link_artifact(self, artifact: Any, target_path: str, aliases: list[str] | None = None) -> None:
        """Refuse by name: no event links what lies at a server.

        Raises:
            BadInputError: Bad input raises.
        """
        self._refuse("link_artifact")

    def use_model(self, name: str) -> None:
        """Refuse by name: nothing is fetched through a bus.

        Raises:
            BadInputError: Bad input raises.
        """
        self._refuse("use_model")

    def restore(self, name: str, run_path: str | None = None, replace: bool = False, root: str | None = None) -> None:
        """Refuse by name: nothing is fetched through a bus.

        Raises:
            BadInputError: Bad input raises.
        """
        self._refuse("restore")

    def upsert_artifact(
        self,
        artifact_or_path: Any,
        name: str | None = None,
        type: str | None = None,
        aliases: list[str] | None = None,
        distributed_id: str | None = None,
    ) -> None:
        """Refuse by name: an artifact is logged by one process.

        Raises:
            BadInputError: Bad input raises.
        """
        self._refuse("upsert_artifact")

    def finish_artifact(
        self,
        artifact_or_path: Any,
        name: str | None = None,
        type: str | None = None,
        aliases: list[str] | None = None,
        distributed_id: str | None = None,
    ) -> None:
        """Refuse by name: an artifact is logged by one process.

        Raises:
            BadInputError: Bad input raises.
        """
        self._refuse("finish_artifact")

    def save_changed(self) -> None:
        """Log those saved files once more that changed since, and what is new in the run's folder."""
        changed = self._saved.take_changed()
        if changed:
            self._save(changed, self.tracking.intake.bad.count)

    def _save_at_end(self) -> None:
        """Have the changed files logged, whoever ends the run."""
        if not self._is_saved_at_end:
            self._is_saved_at_end = True
            runs_of(self.tracking.bus).before_end(self.id, self.save_changed)

    def _log(
        self,
        given: Any,
        name: str | None,
        kind: str,
        aliases: Sequence[str] | None,
        event: Callable[[Artifact, list[ArtifactFile]], ArtifactLogged],
        tags: Sequence[str] | None = None,
    ) -> Artifact:
        intake = self.tracking.intake
        try:
            labels = _texts("aliases", aliases), _texts("tags", tags)
            artifact = self._artifact(given, name, kind)
        except BadInputError as error:
            intake.bad.note("artifact", error)
            return Artifact("left-out", "unspecified").logged_as(self.tracking.publish([], given))
        artifact.aliases, artifact.tags = labels

        def make(store: BlobStore) -> Sequence[TrackingEvent]:
            return recorded(artifact.name, lambda: [event(artifact, artifact.files(store))], intake)

        return artifact.logged_as(self.tracking.publish_kept(make, artifact))

    def _artifact(self, given: Any, name: str | None, kind: str) -> Artifact:
        """Return what was given as an artifact.

        Raises:
            BadInputError: It can't be one.
        """
        if isinstance(given, Artifact):
            return given
        if real_name(given) == "Artifact":
            return artifact_of(given)
        return artifact_at(given, name or safe_name(f"run-{self.id}-{path_of(given).name}"), kind)

    def _save(self, found: Sequence[tuple[Path, str]], left_out: Callable[[object, BadInputError], None]) -> Receipt:
        def make(store: BlobStore) -> list[ArtifactLogged]:
            files: list[ArtifactFile] = []
            for path, name in found:
                try:
                    at = artifact_path(name)
                    files += [one.model_copy(update={"path": at}) for one in files_of(store, path)]
                except BadInputError as error:
                    left_out(name, error)
            parts = [files[at : at + MAX_FILES] for at in range(0, len(files), MAX_FILES)]
            return [ArtifactLogged(key=FILES, files=part) for part in parts]

        return self.tracking.publish_kept(make, dict(found))

    def _refuse(self, method: str) -> None:
        self.tracking.intake.bad.note(method, BadInputError(f"{method} is not supported: {_ADVICE[method]}"))


def _code(name: str, top: Path, paths: Sequence[Path]) -> Artifact:
    code = Artifact(name, "code")
    for path in paths:
        code.add_file(path, path.relative_to(top).as_posix())
    return code


def _made(artifact: Artifact, files: list[ArtifactFile]) -> ArtifactLogged:
    return ArtifactLogged(
        key=artifact.name,
        files=files,
        kind=artifact.type,
        aliases=artifact.aliases,
        tags=artifact.tags,
        metadata=artifact.facts(),
        description=str(artifact.description or ""),
    )


def _used(artifact: Artifact, files: list[ArtifactFile]) -> ArtifactLogged:
    return _made(artifact, files).model_copy(update={"is_input": True})


def _model(artifact: Artifact, files: list[ArtifactFile], registered: str = "") -> ModelLogged:
    return ModelLogged(
        key=artifact.name,
        files=files,
        kind="model",
        aliases=artifact.aliases,
        metadata=artifact.facts(),
        description=str(artifact.description or ""),
        registered_name=registered,
    )


def _texts(what: str, given: Any) -> list[str]:
    if not isinstance(given, str | list | tuple | None):
        raise BadInputError(f"{what}={shown(given)} is no list of texts")
    return [given] if isinstance(given, str) else [str(one) for one in cast("Sequence[Any]", given or ())]


def _says(decide: Callable[..., bool], path: Path, root: Path) -> bool:
    """Ask a function of one argument, or of two."""
    try:
        takes_root = decide.__code__.co_argcount > 1
    except AttributeError:
        takes_root = False
    return bool(decide(str(path), str(root)) if takes_root else decide(str(path)))
