"""The light twin of W&B's picture, with its boxes and masks."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any, cast

from eventbus.errors import BadInputError
from eventbus.media import FigureLogged, ImagesLogged, MediaFile
from writers._arrays import array_of, package
from writers._keys import shown
from writers._pixels import encoded
from writers._wandb_media import Media, as_figure, checked_path, comes_from, extension_of, is_path, one_of, plain

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydantic import JsonValue

    from eventbus.blobs import BlobStore

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's name for pixels of so many channels."""

_JPEG = ("jpg", "jpeg")
_FORMATS = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "bmp": "BMP"}


class Image(Media):
    """A picture.

    Args:
        data_or_path: Path of a file; or pixels from 0 to 255, as an array (height x width x channels) or a tensor of
            torch (channels x height x width); or a picture of Pillow; or a drawing of matplotlib.
        mode: Pillow's name of how pixels are stored: `L`, `RGB`, `RGBA`, ...; by default as their channels say.
        caption: What people read below it.
        grouping: Number of the group that it is shown in.
        classes: Names of classes: `[{"id": 1, "name": "cat"}, ...]`.
        boxes: By name of the group: `{"box_data": [box, ...], "class_labels": {1: "cat"}}`.
        masks: By name of the group: `{"mask_data": height x width, "class_labels": {1: "cat"}}`, or `{"path": ...}`.
        file_type: `png`, `jpg` or `bmp`: how pixels are encoded. A file stays as it is.

    Raises:
        BadInputError: It can't be a picture, or boxes or masks have another form.
        MissingExtraError: Pillow or numpy is not installed.
    """

    kind = "image"
    event = ImagesLogged

    def __init__(
        self,
        data_or_path: Any,
        mode: str | None = None,
        caption: str | None = None,
        grouping: int | None = None,
        classes: Any = None,
        boxes: Any = None,
        masks: Any = None,
        file_type: str | None = None,
    ) -> None:
        source, extension, details = _picture(data_or_path, mode, file_type)
        super().__init__(source, extension, caption, details)
        if grouping is not None:
            self.details["grouping"] = int(grouping)
        if classes is not None:
            self.details["classes"] = _classes(classes)
        if boxes:
            self.details["boxes"] = {str(group): _boxes(group, one) for group, one in _groups("boxes", boxes)}
        self._masks = [Mask(str(group), one) for group, one in _groups("masks", masks or {})]
        if comes_from(data_or_path, "matplotlib"):
            self.event = FigureLogged

    def kept(self, store: BlobStore, at: int) -> list[MediaFile]:
        """Keep the picture, and after it its masks."""
        files = [mask.kept(store, 0)[0] for mask in self._masks]
        masks: dict[str, JsonValue] = {
            mask.group: {"file": index, "class_labels": mask.labels} for index, mask in enumerate(self._masks, at + 1)
        }
        return [self._file(store, {**self.details, **({"masks": masks} if masks else {})}), *files]


class Mask(Media):
    """Which class each pixel of a picture belongs to: a grey picture whose pixels are the classes' numbers.

    Args:
        group: What it is called among the picture's masks.
        value: A dict of `mask_data` (height x width, 0 to 255) or `path`, and `class_labels`.

    Attributes:
        labels: Name by number of the class.

    Raises:
        BadInputError: It has another form.
    """

    kind = "image"
    event = ImagesLogged

    def __init__(self, group: str, value: Any) -> None:
        if not isinstance(value, dict) or not ("mask_data" in value or "path" in value):
            raise BadInputError(f"mask {shown(group)} is no dict with 'mask_data' or 'path'")
        given = cast("dict[str, Any]", value)
        self.group = group
        if "path" in given:
            path = checked_path(given["path"])
            super().__init__(path, extension_of(path), group, {"is_mask": True})
            self.labels = _labels(group, given.get("class_labels", {}))
            return
        pixels = _mask_pixels(group, given["mask_data"])
        found = package("numpy").unique(pixels).tolist()
        self.labels = _labels(group, given.get("class_labels") or {one: f"class_{one}" for one in found})
        png, width, height, _ = encoded(group, pixels[:, :, None])
        super().__init__(png, "png", group, {"is_mask": True, "width": width, "height": height, "channels": 1})


def _picture(data: Any, mode: str | None, file_type: str | None) -> tuple[bytes | Path, str, dict[str, JsonValue]]:
    if isinstance(data, Image):  # boxes and masks belong to the other one
        sizes = {name: data.details[name] for name in ("width", "height", "channels") if name in data.details}
        return data.source, data.extension, sizes
    if is_path(data):
        return _file(data)
    extension = one_of("file_type", file_type or "png", _FORMATS)
    if comes_from(data, "matplotlib") or hasattr(data, "gcf"):
        return _drawn(as_figure(data), extension)
    if hasattr(data, "getbands"):
        return _saved(data, extension)
    return _from_array(data, mode, extension)


def _file(given: Any) -> tuple[Path, str, dict[str, JsonValue]]:
    path = checked_path(given)
    image = package("PIL.Image")
    try:
        with image.open(path) as picture:
            return path, extension_of(path), _size(picture)
    except (OSError, SyntaxError, image.DecompressionBombError) as error:
        raise BadInputError(f"{shown(str(given))} is no picture that Pillow can read: {error}") from error


def _drawn(figure: Any, extension: str) -> tuple[bytes, str, dict[str, JsonValue]]:
    if not hasattr(figure, "savefig"):
        raise BadInputError(f"{type(figure).__name__} belongs to no figure: pass the figure")
    file = io.BytesIO()
    figure.savefig(file, format=extension)
    image = package("PIL.Image")
    file.seek(0)
    with image.open(file) as picture:
        return file.getvalue(), extension, _size(picture)


def _saved(picture: Any, extension: str) -> tuple[bytes, str, dict[str, JsonValue]]:
    file = io.BytesIO()
    try:
        picture.save(file, format=_FORMATS[extension])
    except (OSError, ValueError) as error:
        raise BadInputError(f"the picture can't be stored as {extension}: {error}") from error
    return file.getvalue(), extension, _size(picture)


def _from_array(data: Any, mode: str | None, extension: str) -> tuple[bytes, str, dict[str, JsonValue]]:
    array = array_of("Image", data)
    if comes_from(data, "torch") and array.ndim == 3:  # noqa: PLR2004 - channels x height x width
        array = array.transpose(1, 2, 0)
    if array.ndim > 3:  # noqa: PLR2004 - height x width x channels
        array = array.squeeze()
    array = array[:, :, None] if array.ndim == 2 else array  # noqa: PLR2004 - height x width
    if array.ndim != 3 or array.shape[2] not in MODES:  # noqa: PLR2004 - height x width x channels
        raise BadInputError(
            f"Image has shape {array.shape}: a picture is height x width, or height x width x 1, 3 or 4"
        )
    pixels = array.astype("uint8")
    natural = MODES[pixels.shape[2]]
    if extension == "png" and mode in (None, natural):
        png, width, height, channels = encoded("Image", pixels)
        return png, "png", {"width": width, "height": height, "channels": channels}
    wanted = mode or ("RGB" if extension in _JPEG and natural == "RGBA" else natural)
    image = package("PIL.Image")
    try:
        picture = image.fromarray(pixels.squeeze(2) if natural == "L" else pixels).convert(wanted)
    except (TypeError, ValueError) as error:
        raise BadInputError(f"mode={shown(mode)} is none that Pillow makes of {natural}: {error}") from error
    return _saved(picture, extension)


def _size(picture: Any) -> dict[str, JsonValue]:
    return {"width": picture.width, "height": picture.height, "channels": len(picture.getbands())}


def _groups(what: str, groups: Any) -> list[tuple[Any, Any]]:
    if not isinstance(groups, dict):
        raise BadInputError(f"{what} is of type {type(groups).__name__}: pass a dict by name of the group")
    return list(cast("dict[Any, Any]", groups).items())


def _boxes(group: object, value: Any) -> JsonValue:
    given = cast("dict[str, Any]", value)
    if not isinstance(value, dict) or not isinstance(given.get("box_data"), list):
        raise BadInputError(f"boxes {shown(group)} is no dict with 'box_data', a list of boxes")
    boxes = cast("list[Any]", given["box_data"])
    for box in boxes:
        _check_box(group, box)
    named = given.get("class_labels") or {
        one["class_id"]: f"class_{one['class_id']}" for one in boxes if "class_id" in one
    }
    return {"box_data": [plain(group, box) for box in boxes], "class_labels": _labels(group, named)}


def _check_box(group: object, box: Any) -> None:
    position: Any = cast("dict[str, Any]", box).get("position") if isinstance(box, dict) else None
    forms = ({"minX", "minY", "maxX", "maxY"}, {"middle", "width", "height"})
    if not isinstance(position, dict) or not any(form <= cast("dict[str, Any]", position).keys() for form in forms):
        raise BadInputError(
            f"a box of {shown(group)} stands nowhere: its position is minX, minY, maxX, maxY, or middle, width, height"
        )


def _labels(group: object, labels: Mapping[Any, Any]) -> dict[str, JsonValue]:
    if not all(isinstance(name, str) for name in labels.values()):
        raise BadInputError(f"class_labels of {shown(group)} are no names by number")
    return {json.dumps(plain(group, number)): name for number, name in labels.items()}


def _classes(classes: Any) -> list[JsonValue]:
    found = [plain("classes", one) for one in getattr(classes, "_class_set", classes)]
    if not all(isinstance(one, dict) and {"id", "name"} <= one.keys() for one in found):
        raise BadInputError("classes are no list of {'id': ..., 'name': ...}")
    return found


def _mask_pixels(group: str, data: Any) -> Any:
    array = array_of(group, data)
    if array.ndim != 2:  # noqa: PLR2004 - height x width
        raise BadInputError(f"mask {shown(group)} has shape {array.shape}: a mask is height x width")
    if array.size and (array.min() < 0 or array.max() > 255):  # noqa: PLR2004 - of a byte
        raise BadInputError(f"mask {shown(group)} has classes outside of 0 to 255")
    return array.astype("uint8")
