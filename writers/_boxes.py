"""Boxes and their labels, drawn on a picture at the caller, as TensorBoard's SDK draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

from eventbus.errors import BadInputError
from writers._arrays import package, real_array_of
from writers._keys import shown
from writers._pixels import Picture, encoded, pixels
from writers._values import number

COLOR, TEXT_COLOR, THICKNESS = "Red", "black", 2

CORNERS = 4
"""Numbers of a box: left, top, right, bottom."""


def picture_with_boxes(
    key: object, data: object, boxes: object, *, labels: Sequence[str] | str | None, rescale: object, dataformats: str
) -> Picture:
    """Draw boxes on a picture and encode it.

    Args:
        key: What it is logged under, for errors.
        data: The picture, see `picture_of`.
        boxes: Number of boxes x 4: left, top, right, bottom, in pixels.
        labels: What is written on each; left out where there are not as many as boxes.
        rescale: Its size becomes so many times as large.
        dataformats: Order of the picture's axes.

    Raises:
        BadInputError: The picture, the boxes or the scale can't be drawn.
        MissingExtraError: numpy or Pillow is not installed.
    """
    image, numpy = package("PIL.Image"), package("numpy")
    corners, scale = real_array_of(key, boxes), number("rescale", rescale)
    if corners.ndim != 2 or corners.shape[1] != CORNERS:  # noqa: PLR2004 - boxes x corners
        raise BadInputError(f"{shown(key)} has boxes of shape {corners.shape}: pass [[left, top, right, bottom], ...]")
    drawn_on = pixels(key, real_array_of(key, data), dataformats)
    sheet = image.fromarray(numpy.repeat(drawn_on, 3, axis=2) if drawn_on.shape[2] == 1 else drawn_on)
    size = [int(side * scale) if 0 < scale < math.inf else 0 for side in sheet.size]
    if min(size) < 1:
        raise BadInputError(f"{shown(key)} with rescale={shown(rescale)} has no pixels left: pass a larger number")
    written = _labels_of(labels, len(corners))
    for box, label in zip(corners.tolist(), written, strict=True):
        _draw(sheet, box, label)
    return encoded(key, numpy.asarray(sheet.resize(size, image.Resampling.LANCZOS)))


def _labels_of(labels: Sequence[str] | str | None, boxes: int) -> list[str]:
    given = [labels] if isinstance(labels, str) else list(cast("Sequence[object]", labels or ()))
    return [str(label) for label in given] if len(given) == boxes else [""] * boxes


def _draw(sheet: Any, box: list[float], label: str) -> None:
    left, top, right, bottom = box
    draw, font = package("PIL.ImageDraw").Draw(sheet), package("PIL.ImageFont").load_default()
    outline = [(left, top), (left, bottom), (right, bottom), (right, top), (left, top)]
    draw.line(outline, width=THICKNESS, fill=COLOR)
    if not label:
        return
    begins, highest, ends, lowest = font.getbbox(label)
    width, height = ends - begins, lowest - highest
    margin = math.ceil(height / 20)
    draw.rectangle([(left, bottom - height - 2 * margin), (left + width, bottom)], fill=COLOR)
    draw.text((left + margin, bottom - height - margin), label, fill=TEXT_COLOR, font=font)
