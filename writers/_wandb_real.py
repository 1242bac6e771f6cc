"""Objects of W&B's own SDK, made into our light twins: callers that have the SDK loaded may pass them.

Nothing here imports it: an object is known by the module of its class, and asked for its file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventbus.errors import BadInputError
from writers._keys import shown
from writers._wandb_image import Image
from writers._wandb_kinds import Audio, Histogram, Html, Molecule, Object3D, Plotly, Video
from writers._wandb_media import Media, checked_path, comes_from, extension_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def real_name(value: object) -> str:
    """Return the name of the SDK's class that a value is of; empty if it is none of the SDK's."""
    if not comes_from(value, "wandb") and not any(one.__module__.startswith("wandb.") for one in type(value).__mro__):
        return ""
    names = (one.__name__ for one in type(value).__mro__ if one.__module__.partition(".")[0] == "wandb")
    known = [name for name in names if name in KNOWN]
    return known[0] if known else type(value).__name__


def twin(value: Any) -> Media | Histogram:
    """Return the light twin of an object of the SDK.

    Raises:
        BadInputError: It can't be carried; the message says what to log in its place.
    """
    name = real_name(value)
    make = _TWINS.get(name)
    if make is None:
        raise BadInputError(
            f"wandb's {name} can't be carried: {_ADVICE.get(name, 'log its numbers, a Table or an Image')}"
        )
    return make(value)


def _image(value: Any) -> Image:
    given_boxes: dict[str, Any] = value._boxes or {}
    given_masks: dict[str, Any] = value._masks or {}
    boxes = {group: {"box_data": one._val, "class_labels": one._class_labels} for group, one in given_boxes.items()}
    masks = {
        group: {"path": one._path, "class_labels": getattr(one, "_val", {}).get("class_labels", {})}
        for group, one in given_masks.items()
    }
    return Image(
        _file_of(value),
        caption=value._caption,
        grouping=value._grouping,
        classes=value._classes,
        boxes=boxes,
        masks=masks,
    )


def _audio(value: Any) -> Audio:
    return Audio(_file_of(value), value._sample_rate, value._caption)


def _video(value: Any) -> Video:
    return Video(_file_of(value), value._caption)


def _html(value: Any) -> Html:
    return Html(value.html, inject=False, data_is_not_path=True)  # its head is in it


def _plotly(value: Any) -> Media:
    made = Plotly.__new__(Plotly)  # what it is made of is a file already, no figure
    path = checked_path(_file_of(value))
    Media.__init__(made, path, extension_of(path), value._caption)
    return made


def _object3d(value: Any) -> Object3D:
    return Object3D(_file_of(value), value._caption)


def _molecule(value: Any) -> Molecule:
    return Molecule(_file_of(value), value._caption)


def _histogram(value: Any) -> Histogram:
    return Histogram(np_histogram=(value.histogram, value.bins))


def _file_of(value: Any) -> str:
    path = getattr(value, "_path", None)
    if path is None:
        raise BadInputError(f"wandb's {type(value).__name__} {shown(value)} has no file: log what it was made of")
    return str(path)


_TWINS: Mapping[str, Callable[[Any], Media | Histogram]] = {
    "Image": _image,
    "Audio": _audio,
    "Video": _video,
    "Html": _html,
    "Plotly": _plotly,
    "Object3D": _object3d,
    "Molecule": _molecule,
    "Histogram": _histogram,
}
_ADVICE: Mapping[str, str] = {
    "CustomChart": "log its data as a Table, and draw the chart in W&B",
    "Graph": "log it as a text, or with SummaryWriter.add_graph",
    "Bokeh": "log it as Html: bokeh.embed.file_html(...)",
    "PartitionedTable": "log its parts as Tables",
    "JoinedTable": "log the two Tables",
}
KNOWN = frozenset({*_TWINS, "Table", "Artifact", *_ADVICE})
"""Names of the SDK's classes that are known here."""
