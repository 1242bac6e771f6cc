"""The files that TensorBoard's projector reads, beside the event files of a run.

Each embedding has a folder, `<step>/<tag>`, as in the SDK; `projector_config.pbtxt` names them all. An embedding that
is stored again replaces what it left before, in its folder and in there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from eventbus.blobs import Blob
from eventbus.errors import BlobError
from eventbus.media import EmbeddingLogged
from receivers._arrays import rows
from receivers._files import put_file
from receivers._kept import KeptFile
from receivers._names import MAX_FILE_NAME, file_name, shorten
from receivers._tensorboard_texts import list_in, table_in

CONFIG = "projector_config.pbtxt"


def store_embedding(
    root: Path, event: EmbeddingLogged, read: Callable[[Blob], bytes | None], counts: Counter[str]
) -> None:
    """Write the files of an embedding, and name it in the projector's configuration.

    Args:
        root: Folder of the run.
        event: The embedding.
        read: Returns a payload, or None where it can't be had.
        counts: What was stored otherwise than logged.

    Raises:
        BlobError: The matrix is not what the event says.
    """
    matrix = read(event.matrix.blob)
    if matrix is None:
        return
    step = f"{event.step or 0:05d}"
    folder = f"{step}/{_folder_name(event.key)}"
    found = {"tensors.tsv": _lines(rows(event.matrix, matrix))}
    if event.labels is not None and (labels := read(event.labels)) is not None:
        try:
            found["metadata.tsv"] = _labels(event, labels)
        except BlobError:  # the points are shown without them
            counts[f"payload missing: {event.event_name}"] += 1
    if event.sprite is not None and (sprite := read(event.sprite.blob)) is not None:
        found["sprite.png"] = sprite
    for name, data in found.items():
        put_file(root, KeptFile(f"{folder}/{name}", data), counts)
    _name_it(root, _info(event, f"{event.key}:{step}", folder, found), counts)


def _folder_name(tag: str) -> str:
    """Spell a tag as the SDK does, so that it is one folder's name."""
    spelled = tag.replace("%", "%25").replace("/", "%2f").replace("\\", "%5c")
    return shorten(spelled, MAX_FILE_NAME) if spelled.strip(".") else file_name(spelled)


def _labels(event: EmbeddingLogged, data: bytes) -> bytes:
    labels = table_in(data) if event.header else list_in(data)
    return _lines([event.header, *labels] if event.header else [[label] for label in labels])


def _lines(table: Iterable[Iterable[object]]) -> bytes:
    return "".join("\t".join(_cell(cell) for cell in row) + "\n" for row in table).encode(errors="replace")


def _cell(value: object) -> str:
    """Return a cell: a tab or a line's end would put all that follows it beside the wrong point."""
    return " ".join(str(value).splitlines()).replace("\t", " ") if isinstance(value, str) else str(value)


def _info(event: EmbeddingLogged, name: str, folder: str, found: Iterable[str]) -> Any:
    info = _messages().EmbeddingInfo(tensor_name=name, tensor_path=f"{folder}/tensors.tsv")
    if "metadata.tsv" in found:
        info.metadata_path = f"{folder}/metadata.tsv"
    if "sprite.png" in found:
        info.sprite.image_path = f"{folder}/sprite.png"
        info.sprite.single_image_dim.extend(event.sprite_size)
    return info


def _name_it(root: Path, info: Any, counts: Counter[str]) -> None:
    """Put an embedding into the configuration, in place of the one that has its name."""
    config = _read_config(root / CONFIG, counts)
    others = [one for one in config.embeddings if one.tensor_name != info.tensor_name]
    del config.embeddings[:]
    config.embeddings.extend([*others, info])
    text: Any = import_module("google.protobuf.text_format")
    put_file(root, KeptFile(CONFIG, text.MessageToString(config).encode()), counts)


def _read_config(path: Path, counts: Counter[str]) -> Any:
    text: Any = import_module("google.protobuf.text_format")
    try:
        return text.Parse(path.read_text(encoding="utf-8"), _messages().ProjectorConfig())
    except FileNotFoundError:
        return _messages().ProjectorConfig()
    except (text.ParseError, UnicodeDecodeError):  # somebody else's: what it named is not shown any more
        counts["unreadable projector configuration"] += 1
        return _messages().ProjectorConfig()


def _messages() -> Any:
    return import_module("tensorboard.plugins.projector.projector_config_pb2")
