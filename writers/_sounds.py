"""Sounds and moving pictures, encoded at the caller as WAV and GIF."""

from __future__ import annotations

import io
import wave
from typing import Any

from eventbus.errors import BadInputError
from writers._arrays import package, real_array_of
from writers._keys import shown
from writers._pixels import bytes_of
from writers._values import number

LOUDEST = 32767
"""Of 16 bits; what is louder than 1 is cut to it."""

MAX_CHANNELS = 64
"""Of a sound: more is a mistake in the order of the axes."""

AXES_OF_VIDEO = 5
"""Batch x frames x channels x height x width."""


def wav(key: object, samples: object, sample_rate: int) -> tuple[bytes, int, int]:
    """Encode a sound as WAV of 16 bits.

    Args:
        key: What it is logged under, for errors.
        samples: Frames, or frames x channels; from -1 to 1, what is louder is cut; or int16, which stays as it is.
        sample_rate: Frames a second.

    Returns:
        The file, its channels and its frames.

    Raises:
        BadInputError: It can't be a sound.
        MissingExtraError: numpy is not installed.
    """
    array = real_array_of(key, samples)
    array = array.reshape(-1, 1) if array.ndim < 2 else array  # noqa: PLR2004 - frames x channels
    if array.ndim != 2 or array.shape[1] > MAX_CHANNELS:  # noqa: PLR2004 - frames x channels
        raise BadInputError(f"{shown(key)} has shape {array.shape}: a sound is frames, or frames x channels")
    if type(sample_rate) is not int or not 0 < sample_rate < 1 << 31:
        raise BadInputError(f"sample_rate={shown(sample_rate)} of {shown(key)} is no number of frames a second")
    frames, channels = array.shape
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(2)
        sound.setframerate(sample_rate)
        sound.writeframes(_sixteen_bits(array).tobytes())
    return file.getvalue(), channels, frames


def gif(key: object, frames: object, fps: object) -> tuple[bytes, int, int]:
    """Encode videos as one animated GIF, side by side in a grid.

    Args:
        key: What it is logged under, for errors.
        frames: Batch x frames x channels x height x width; uint8, or numbers from 0 to 1, what lies outside is cut.
        fps: Frames a second. GIF counts in hundredths of a second.

    Returns:
        The file, its width and its height.

    Raises:
        BadInputError: It can't be a video.
        MissingExtraError: numpy or Pillow is not installed.
    """
    speed = number("fps", fps)
    if not 0 < speed <= 100:  # noqa: PLR2004 - a hundredth of a second
        raise BadInputError(f"fps={shown(fps)} of {shown(key)} is out of range: GIF has up to 100 frames a second")
    array = real_array_of(key, frames)
    if array.ndim != AXES_OF_VIDEO or array.shape[2] not in (1, 3):
        raise BadInputError(
            f"{shown(key)} has shape {array.shape}: a video is batch x frames x channels x height x width, "
            "of 1 or 3 channels"
        )
    image = package("PIL.Image")
    pictures = [image.fromarray(frame) for frame in _side_by_side(array)]
    file = io.BytesIO()
    pictures[0].save(
        file, "GIF", save_all=True, append_images=pictures[1:], duration=round(1000 / speed), loop=0, disposal=1
    )
    return file.getvalue(), *pictures[0].size


def _sixteen_bits(array: Any) -> Any:
    numpy = package("numpy")
    if array.dtype == numpy.int16:
        return array.astype("<i2")
    loud = numpy.nan_to_num(array.astype(numpy.promote_types(array.dtype, "f4")), nan=0.0).clip(-1, 1)
    return (loud * LOUDEST).astype("<i2")


def _side_by_side(videos: Any) -> Any:
    """Return frames x height x width x 3, uint8: as many videos across as TensorBoard's SDK puts there."""
    numpy = package("numpy")
    number_of, time, channels, height, width = videos.shape
    places = 1 << (number_of - 1).bit_length()
    down = 1 << ((number_of.bit_length() - 1) // 2)
    sheet = numpy.zeros((places, time, channels, height, width), numpy.uint8)
    sheet[:number_of] = bytes_of(videos)
    grid = sheet.reshape(down, places // down, time, channels, height, width).transpose(2, 0, 4, 1, 5, 3)
    whole = grid.reshape(time, down * height, places // down * width, channels)
    return numpy.repeat(whole, 3, axis=3) if channels == 1 else whole
