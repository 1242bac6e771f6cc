"""What a run left in each tracker, looked up by name: for tests that ask whether this or that is there."""

import io
import json
import wave
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from readback import (
    MlflowRun,
    RawValue,
    WandbRun,
    raw_mlflow,
    raw_tensorboard,
    raw_wandb,
    read_mlflow_runs,
    read_wandb_runs,
)
from tensorboard.util import tensor_util


def words(text: str) -> set[str]:
    """The words of a text or of a table."""
    return {word.strip("`:,") for word in text.replace("|", " ").replace("**", "").split()}


def picture_size(data: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(data)).size


def sample_rate(data: bytes) -> int:
    with wave.open(io.BytesIO(data)) as file:
        return file.getframerate()


def array(data: bytes) -> list[Any]:
    return np.load(io.BytesIO(data), allow_pickle=False).tolist()


class Files:
    """The files below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def found(self, start: str, suffix: str = "") -> list[bytes]:
        """The files with a path that goes on with `start` at some folder and ends with `suffix`; none that tells about
        another one.
        """
        paths = sorted(path for path in self.root.rglob("*") if path.is_file() and "latest-run" not in path.parts)
        names = {path: f"/{path.relative_to(self.root).as_posix()}" for path in paths}
        wanted = [path for path, name in names.items() if f"/{start}" in name and name.endswith(suffix)]
        return [path.read_bytes() for path in wanted if not path.name.endswith(".about.json")]

    def file(self, start: str, suffix: str = "") -> bytes:
        """The one such file."""
        found = self.found(start, suffix)
        known = [path.relative_to(self.root).as_posix() for path in self.root.rglob("*")]
        assert len(found) == 1, (start, suffix, len(found), sorted(known))
        return found[0]

    def json(self, start: str, suffix: str = ".json") -> Any:
        """What the one such file says."""
        return json.loads(self.file(start, suffix))


class TensorBoardView(Files):
    """TensorBoard's folder."""

    @cached_property
    def values(self) -> list[RawValue]:
        return raw_tensorboard(self.root)

    def text(self, tag: str) -> str:
        """The texts under a tag, in order."""
        found = [one for one in self.values if one.tag == f"{tag}/text_summary"]
        return "\n".join(one.message.tensor.string_val[0].decode() for one in found)

    def words(self, tag: str) -> set[str]:
        """The words of the texts under a tag."""
        return words(self.text(tag))

    def value(self, tag: str, plugin_or_field: str) -> Any:
        """The one message of a plugin, or of a kind, under a tag."""
        found = [one for one in self.values if one.tag == tag and plugin_or_field in (one.plugin, one.field)]
        assert len(found) == 1, (tag, [(one.run, one.tag, one.plugin, one.field) for one in self.values])
        return found[0].message

    def scalar(self, tag: str) -> float:
        return self.value(tag, "simple_value").simple_value

    def tensor(self, tag: str, plugin: str) -> np.ndarray:
        return tensor_util.make_ndarray(self.value(tag, plugin).tensor)

    def images(self, key: str) -> list[bytes]:
        """The pictures under a key, of one or of several."""
        found = [one for one in self.values if one.field == "image" and one.tag.partition("/")[0] == key]
        return [one.message.image.encoded_image_string for one in found]

    def plugins(self) -> set[tuple[str, str]]:
        """(Plugin, tag) of all values that name one."""
        return {(one.plugin, one.tag) for one in self.values if one.plugin}

    def graphs(self) -> list[bytes]:
        return [one.message for one in self.values if one.field == "graph_def"]


class MlflowView(Files):
    """One run, the only one whose id with us starts so, in MLflow's SQLite store of a workspace."""

    def __init__(self, workspace: Path, run: str = "") -> None:
        self.store = workspace / "mlflow.db"
        self.run: MlflowRun
        (self.run,) = (one for one in read_mlflow_runs(self.store) if one.tags["trackbus.run"].startswith(run))
        super().__init__(Path(self.run.artifact_uri.removeprefix("file://")))

    def rows(self, table: str) -> list[dict[str, Any]]:
        """The rows of a table, those of this run where they name one."""
        ours = {"run_uuid", "run_id", "source_run_id"}
        return [
            row for row in raw_mlflow(self.store, table) if all(row[key] == self.run.run_id for key in ours & set(row))
        ]

    def metric(self, key: str) -> dict[str, Any]:
        (row,) = (row for row in self.rows("metrics") if row["key"] == key)
        return row

    def tag(self, start: str) -> str:
        """The one tag whose name starts so."""
        (value,) = (value for key, value in self.run.tags.items() if key.startswith(start))
        return value


class WandbView(Files):
    """One run, the only one whose id starts so, in the `.wandb` files of a workspace."""

    def __init__(self, workspace: Path, run: str = "") -> None:
        self.run: WandbRun
        (self.run,) = (one for one in read_wandb_runs(workspace / "wandb") if one.run_id.startswith(run))
        super().__init__(self.run.path.parent)
        self._records = raw_wandb(self.root)

    def records(self, kind: str) -> list[Any]:
        return [record for name, record in self._records if name == kind]

    def history(self, key: str) -> Any:
        """The one value of a key in the history: fields of an object stand there as `key.field`."""
        found = [row[key] for row in self.run.history if key in row]
        parts = [_fields(row, f"{key}.") for row in self.run.history]
        found += [fields for fields in parts if fields]
        assert len(found) == 1, (key, [list(row) for row in self.run.history])
        return found[0]

    def media(self, key: str) -> list[bytes]:
        """The files of what was logged under a key."""
        entry = self.history(key)
        paths = entry["filenames"] if "filenames" in entry else [entry["path"]]
        return [data for path in paths for data in self.found(f"files/{path}")]

    def table(self, key: str) -> dict[str, Any]:
        (data,) = self.media(key)
        return json.loads(data)

    def artifact(self, kind: str) -> dict[str, Any]:
        """The paths of the one artifact of a type, with what stands under each: a file's bytes or a reference."""
        (record,) = (record for record in self.records("artifact") if record.type == kind)
        return {entry.path: entry.ref or Path(entry.local_path).read_bytes() for entry in record.manifest.contents}


def _fields(row: Mapping[str, Any], start: str) -> dict[str, Any]:
    return {key.removeprefix(start): value for key, value in row.items() if key.startswith(start)}
