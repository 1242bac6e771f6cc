import io
import wave
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.tensorboard._utils import _prepare_video
from torch.utils.tensorboard.summary import audio

from eventbus.errors import BadInputError
from writers._sounds import gif, wav

RANDOM = np.random.default_rng(7)


def test_a_sound_is_that_of_the_sdk(capsys: pytest.CaptureFixture[str]) -> None:
    samples = torch.as_tensor(RANDOM.normal(0, 0.8, 500))  # some of it too loud
    theirs = audio("sound", samples, 8000).value[0].audio

    file, channels, frames = wav("sound", samples, 8000)

    assert (file, channels, frames) == (theirs.encoded_audio_string, theirs.num_channels, theirs.length_frames)
    assert "clipped" in capsys.readouterr().out


def test_stereo_and_sixteen_bits_stay() -> None:
    samples = RANDOM.integers(-32768, 32768, (50, 2), dtype=np.int16)

    file, channels, frames = wav("sound", samples, 44100)

    assert (channels, frames) == (2, 50)
    with wave.open(io.BytesIO(file)) as sound:
        assert sound.getframerate() == 44100
        assert np.array_equal(np.frombuffer(sound.readframes(50), "<i2").reshape(50, 2), samples)


@pytest.mark.parametrize("shape", [(1, 4, 3, 6, 8), (3, 4, 3, 6, 8), (8, 2, 3, 5, 4), (5, 1, 1, 4, 4)])
def test_a_video_shows_what_the_sdks_would(shape: tuple[int, ...]) -> None:
    palette = np.array([0, 85, 170, 255], dtype=np.uint8)  # few colours: GIF has room for 256
    frames = palette[RANDOM.integers(0, 4, shape)]
    expected = (_prepare_video(frames) * 255).round().astype(np.uint8)

    file, width, height = gif("video", frames, 5)

    assert (height, width) == expected.shape[1:3]
    with Image.open(io.BytesIO(file)) as opened:
        assert opened.n_frames == shape[1]  # pyright: ignore[reportAttributeAccessIssue]
        for number in range(shape[1]):
            opened.seek(number)
            shown = np.asarray(opened.convert("RGB"))
            assert np.array_equal(shown, np.broadcast_to(expected[number], shown.shape))


@pytest.mark.parametrize(
    ("samples", "sample_rate", "message"),
    [
        ([], 8000, "is empty"),
        (np.zeros((2, 3, 4)), 8000, "a sound is frames"),
        (np.zeros((2, 500)), 8000, "a sound is frames"),
        ([1j], 8000, "complex"),
        ("a.wav", 8000, "not of numbers"),
        ([0.5], 0, "sample_rate=0"),
        ([0.5], 8000.5, r"sample_rate=8000\.5"),
    ],
)
def test_what_is_no_sound_is_refused(samples: Any, sample_rate: Any, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        wav("sound", samples, sample_rate)


@pytest.mark.parametrize(
    ("shape", "fps", "message"),
    [
        ((4, 3, 6, 8), 4, "a video is batch x frames"),
        ((1, 4, 2, 6, 8), 4, "a video is batch x frames"),
        ((1, 0, 3, 6, 8), 4, "is empty"),
        ((1, 4, 3, 6, 8), 0, "fps=0"),
        ((1, 4, 3, 6, 8), float("nan"), "fps=nan"),
        ((1, 4, 3, 6, 8), "4", "not a number"),
    ],
)
def test_what_is_no_video_is_refused(shape: tuple[int, ...], fps: Any, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        gif("video", np.zeros(shape), fps)
