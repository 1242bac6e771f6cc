"""What is a call of its own to the W&B SDK: definitions, summaries, alerts, artifacts, files of the run. Loads no SDK.

Each call becomes one record in the SDK's file, which proves that it is stored.
"""

from __future__ import annotations

import hashlib
import logging
import re
from base64 import b64encode
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from eventbus.artifacts import ArtifactFile, ArtifactLogged, ModelLogged
from eventbus.errors import BlobError
from eventbus.tracking import AlertRaised, MetricDefined, SummaryUpdated
from receivers._files import put_file
from receivers._kept import KeptFile, kept_files
from receivers._names import escape, relative_path, shorten
from receivers._wandb_proof import Proof
from receivers._wandb_rows import OURS, is_named, is_single, public, storable

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from eventbus import Envelope, Event
    from eventbus.blobs import BlobReader
    from receivers._wandb_metrics import Metrics
    from receivers._wandb_run import Run

MAX_NAME = 128
"""Characters of an artifact's name and type."""

MAX_METADATA = 100
"""Keys in an artifact's metadata; more stand one level deeper."""

MAX_WAIT = 10 * 365 * 86400.0
"""Seconds that an alert waits at most: "never again" in the form of a number that the SDK can count with."""

_MIN_WAIT = 0.001  # the SDK takes 0 for its own default, a minute
_DRIVE = re.compile(r"^([a-zA-Z]):")
_WRITTEN_BY_SDK = frozenset(
    {
        *("config.yaml", "wandb-summary.json", "wandb-metadata.json", "wandb-history.jsonl", "wandb-events.jsonl"),
        *("output.log", "requirements.txt", "conda-environment.yaml", "diff.patch", "media"),
    }
)
_RESERVED = ("job", "run_table", "wandb-")

_logger = logging.getLogger("trackbus.worker")


class Calls:
    """Makes the calls of one run.

    Args:
        sdk: The SDK's module.
        run: The run.
        blobs: Finds the payloads.
        counts: Takes what was stored otherwise than logged.
        metrics: Defines metrics.
        folder: Where the files of artifacts stay until they are uploaded.
    """

    def __init__(
        self, sdk: Any, run: Run, blobs: BlobReader, counts: Counter[str], *, metrics: Metrics, folder: Path
    ) -> None:
        self._sdk = sdk
        self._run = run
        self._metrics = metrics
        self._blobs = blobs
        self._counts = counts
        self._folder = folder

    def make(self, number: int, envelope: Envelope[Event]) -> Proof | None:
        """Make the call that a record asks for; what the SDK refuses is kept as files of the run, and counted.

        Args:
            number: The record's row.
            envelope: The record.

        Returns:
            What proves that it is stored; None where nothing came of it, which is counted.
        """
        try:
            return self._made(number, envelope)
        except OSError:
            raise  # the disk's fault, not the record's: it is tried again
        except Exception as error:  # noqa: BLE001 - border: the SDK judges what others have logged
            last = keep_refused(self._sdk, self._run, envelope, self._blobs, self._counts, error=error)
            return self._place(number) if is_single(envelope.event) else Proof("files", (last,)) if last else None

    def _made(self, number: int, envelope: Envelope[Event]) -> Proof | None:
        match envelope.event:
            case MetricDefined() as event:
                return self._metrics.define(event, self._counts)
            case SummaryUpdated() as event:
                values = {public(key): storable(value, self._counts) for key, value in event.values.items()}
                self._run.summary.update(values)
                return Proof("summary", tuple(values))
            case AlertRaised() as event:
                wait = max(_MIN_WAIT, min(event.wait_seconds, MAX_WAIT))  # so NaN is the least, too
                self._run.alert(event.title, event.text, event.level, wait)
                return Proof("alert", (event.title,))
            case ArtifactLogged() as event if is_named(event):
                if isinstance(event, ModelLogged) and event.registered_name and not self._run.url:
                    self._counts["model not registered"] += 1  # offline; its metadata say what it was to be
                return self._artifact(number, event)
            case _:
                return self._keep(envelope)

    def _keep(self, envelope: Envelope[Event]) -> Proof | None:
        """Keep a record as files of the run."""
        last = keep_record(self._run, envelope, self._blobs, self._counts)
        if last and not isinstance(envelope.event, ArtifactLogged):
            self._counts[f"kept as a file: {envelope.event.event_name}"] += 1
        return Proof("files", (last,)) if last else None

    def _artifact(self, number: int, event: ArtifactLogged) -> Proof:
        """Log an artifact; its files lie beside the run's until they are uploaded, whatever becomes of the payloads."""
        name, kind = self._spelled(event)
        is_code = kind == "code" and name.startswith("source-")  # the form of `log_code`, which the SDK keeps to itself
        made = internal_artifact(self._sdk) if is_code else self._sdk.Artifact
        artifact = made(name, kind, description=event.description or None, metadata=self._metadata(event))
        folder = self._folder / str(number)
        for file in event.files:
            self._add(artifact, folder, file, event)
        aliases = [self._changed(alias, re.sub(r"[/:]", "-", alias)) for alias in event.aliases]
        tags = [self._changed(tag, re.sub(r"[^-\w ]", "-", tag).strip()) for tag in event.tags]
        return self._publish(artifact, aliases, [tag for tag in tags if tag], is_input=event.is_input)

    def _place(self, number: int) -> Proof:
        """Log an empty artifact in the place of what was refused: the run's artifacts and alerts are counted."""
        return self._publish(self._sdk.Artifact(f"refused-{number}", "refused"), [], [])

    def _publish(self, artifact: Any, aliases: Sequence[str], tags: Sequence[str], *, is_input: bool = False) -> Proof:
        add_artifact(self._run, artifact, aliases, tags, is_input=is_input)
        # The id tells it from the next of its name.
        return Proof("artifact", (artifact.name, artifact._client_id))  # noqa: SLF001

    def _add(self, artifact: Any, folder: Path, file: ArtifactFile, event: ArtifactLogged) -> None:
        """Add a file to an artifact: the SDK would look up a reference, and hold a whole file in memory."""
        path = self._changed(file.path, relative_path(_DRIVE.sub(r"\1-", file.path)))
        if path in artifact.manifest.entries:
            self._counts["artifact path taken"] += 1
            return
        said: dict[str, Any] = {"ref": file.reference, "digest": file.reference}
        if file.blob is not None:
            try:
                source = self._blobs.path(file.blob)
            except BlobError:
                self._counts[f"payload missing: {event.event_name}"] += 1
                return
            placed = put_file(folder, KeptFile(path, source), self._counts)
            said = {"digest": _md5(placed), "size": file.blob.size, "local_path": str(placed), "skip_cache": True}
        entries = import_module(f"{self._sdk.__name__}.sdk.artifacts.artifact_manifest_entry")
        artifact.manifest.add_entry(entries.ArtifactManifestEntry(path=path, **said))

    def _spelled(self, event: ArtifactLogged) -> tuple[str, str]:
        """Return an artifact's name and type as W&B takes them."""
        name = self._changed(event.key, shorten(escape(event.key, r"[^a-zA-Z0-9_\-.]"), MAX_NAME))
        kind = event.kind or "model"
        plain = shorten(escape(kind, r"[/:]"), MAX_NAME)
        return name, self._changed(kind, f"user-{plain}" if plain.startswith(_RESERVED) else plain)

    def _changed(self, old: str, new: str) -> str:
        if old != new:
            self._counts["renamed in an artifact"] += 1
        return new

    def _metadata(self, event: ArtifactLogged) -> dict[str, Any]:
        found: dict[str, Any] = storable(event.metadata, self._counts)
        if len(found) > MAX_METADATA:
            found = {"metadata": found}
        if isinstance(event, ModelLogged):
            ours = {"flavor": event.flavor, "registered_name": event.registered_name, "params": event.params}
            said = {key: value for key, value in ours.items() if value}
            return {**found, OURS: said} if said else found
        return found


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return b64encode(hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).digest()).decode()


def internal_artifact(sdk: Any) -> Callable[..., Any]:
    """Return what makes an artifact of a kind that the SDK has reserved for itself."""
    return import_module(f"{sdk.__name__}.sdk.artifacts._internal_artifact").InternalArtifact


def add_artifact(
    run: Run, artifact: Any, aliases: Sequence[str], tags: Sequence[str], *, is_input: bool = False
) -> None:
    """Log an artifact by a call that is recorded in the SDK's file, online too, and asks no server first."""
    artifact.finalize()
    names = list(dict.fromkeys((*aliases, "latest")))
    interface = cast("Any", run)._interface  # noqa: SLF001
    interface.publish_artifact(run, artifact, names, list(tags), use_after_commit=is_input)


def keep(run: Run, files: Iterable[KeptFile], counts: Counter[str]) -> str:
    """Add files to the run's own, copied, and return the path of the last one; empty for none."""
    last, folder = "", Path(run.settings.files_dir)
    for file in files:
        path = put_file(folder, file, counts)
        run.save(str(path), base_path=str(folder), policy="now", glob=False)
        last = path.relative_to(folder).as_posix()
    return last


def keep_record(run: Run, envelope: Envelope[Event], blobs: BlobReader, counts: Counter[str]) -> str:
    """Keep a record as files of the run, and return the path of the last one; empty for none."""
    return keep(run, [_beside_the_sdks(file, counts) for file in kept_files(envelope, blobs, counts)], counts)


def keep_refused(
    sdk: Any, run: Run, envelope: Envelope[Event], blobs: BlobReader, counts: Counter[str], *, error: Exception
) -> str:
    """Keep as files of the run what the SDK has refused, and return the path of the last one; empty for none.

    Raises:
        wandb.CommError: That was the error: the server is away, and the record may be good.
    """
    if isinstance(error, sdk.errors.CommError):
        raise error
    name = envelope.event.event_name
    _logger.warning("%s is refused by the SDK, and kept as a file: %s", name, error)
    counts[f"refused by W&B: {name}"] += 1
    if last := keep_record(run, envelope, blobs, counts):
        counts[f"kept as a file: {name}"] += 1
    return last


def _beside_the_sdks(file: KeptFile, counts: Counter[str]) -> KeptFile:
    """Return the file, in a folder of ours where the SDK would write its own over it."""
    if file.path.partition("/")[0] not in _WRITTEN_BY_SDK:
        return file
    counts["renamed file"] += 1
    return file._replace(path=f"kept/{file.path}")


def relabel(run: Run, labels: Mapping[str, Any]) -> None:
    """Name the classes of masks and boxes again: the SDK keeps them in its part of the configuration."""
    for kind, groups in labels.items():
        for key, group in groups.items():
            cast("Any", run)._add_singleton(kind, key, group["value"])  # noqa: SLF001
