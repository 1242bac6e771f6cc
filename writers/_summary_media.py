"""The methods of `SummaryWriter` that log pictures, sounds and videos."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventbus import Receipt
from eventbus.errors import BadInputError
from eventbus.media import AudioLogged, FigureLogged, ImagesLogged, VideoLogged
from writers._arrays import array_of
from writers._boxes import picture_with_boxes
from writers._keys import shown
from writers._pixels import Picture, figure_picture, picture_of, tiled
from writers._sounds import gif, wav
from writers._summary import Place, SummaryMethods

if TYPE_CHECKING:
    from collections.abc import Sequence


class MediaMethods(SummaryMethods):
    """Pictures, sounds and videos: encoded at the caller, kept in the blob store."""

    def add_image(
        self,
        tag: str,
        img_tensor: Any,
        global_step: Any = None,
        walltime: float | None = None,
        dataformats: str = "CHW",
    ) -> Receipt:
        """Log a picture.

        Args:
            tag: Its name.
            img_tensor: An array, a tensor or a nested list: uint8, or numbers from 0 to 1, what lies outside is cut.
            global_step: An integer from 0; None is stored as 0.
            walltime: When, seconds since the epoch; now by default.
            dataformats: Order of its axes: H height, W width, C channels (1 to 4), N number of pictures.

        Raises:
            BadInputError: The tag, the picture or the step can't be recorded, and bad input raises.
        """
        return self._log(tag, lambda at: _images(at, picture_of(tag, img_tensor, dataformats)), global_step, walltime)

    def add_images(
        self,
        tag: str,
        img_tensor: Any,
        global_step: Any = None,
        walltime: float | None = None,
        dataformats: str = "NCHW",
    ) -> Receipt:
        """Log a batch of pictures as one, eight in a row.

        Args:
            tag: Its name.
            img_tensor: An array, a tensor or a nested list, as `add_image` takes it.
            global_step: An integer from 0; None is stored as 0.
            walltime: When, seconds since the epoch; now by default.
            dataformats: Order of its axes.

        Raises:
            BadInputError: The tag, the pictures or the step can't be recorded, and bad input raises.
        """
        return self._log(tag, lambda at: _images(at, tiled(tag, img_tensor, dataformats)), global_step, walltime)

    def add_image_with_boxes(  # noqa: PLR0917 - TensorBoard's own arguments, in its order
        self,
        tag: str,
        img_tensor: Any,
        box_tensor: Any,
        global_step: Any = None,
        walltime: float | None = None,
        rescale: float = 1,
        dataformats: str = "CHW",
        labels: Sequence[str] | str | None = None,
    ) -> Receipt:
        """Log a picture with boxes drawn on it.

        Args:
            tag: Its name.
            img_tensor: The picture, as `add_image` takes it.
            box_tensor: Number of boxes x 4: left, top, right and bottom, in pixels.
            global_step: An integer from 0; None is stored as 0.
            walltime: When, seconds since the epoch; now by default.
            rescale: The picture becomes so many times as large.
            dataformats: Order of the picture's axes.
            labels: What is written on each box; left out where there are not as many as boxes.

        Raises:
            BadInputError: The tag, the picture, the boxes or the step can't be recorded, and bad input raises.
        """

        def make(at: Place) -> ImagesLogged:
            drawn = picture_with_boxes(
                tag, img_tensor, box_tensor, labels=labels, rescale=rescale, dataformats=dataformats
            )
            return _images(at, drawn)

        return self._log(tag, make, global_step, walltime)

    def add_figure(
        self,
        tag: str,
        figure: Any,
        global_step: int | None = None,
        close: bool = True,
        walltime: float | None = None,
    ) -> Receipt:
        """Log a figure of matplotlib, drawn here and now.

        Args:
            tag: Its name.
            figure: A figure, or a list of figures of one size.
            global_step: An integer from 0; None is stored as 0.
            close: Whether pyplot lets go of it.
            walltime: When, seconds since the epoch; now by default.

        Raises:
            BadInputError: The tag, the figure or the step can't be recorded, and bad input raises.
        """

        def make(at: Place) -> FigureLogged:
            return FigureLogged(key=at.key, step=at.step, files=[at.picture(figure_picture(tag, figure, close))])

        return self._log(tag, make, global_step, walltime)

    def add_video(
        self, tag: str, vid_tensor: Any, global_step: Any = None, fps: float = 4, walltime: float | None = None
    ) -> Receipt:
        """Log videos, side by side, as an animated GIF. Needs Pillow, and nothing else.

        Args:
            tag: Its name.
            vid_tensor: Batch x frames x channels (1 or 3) x height x width; uint8, or numbers from 0 to 1.
            global_step: An integer from 0; None is stored as 0.
            fps: Frames a second, up to 100.
            walltime: When, seconds since the epoch; now by default.

        Raises:
            BadInputError: The tag, the video or the step can't be recorded, and bad input raises.
        """

        def make(at: Place) -> VideoLogged:
            data, width, height = gif(tag, vid_tensor, fps)
            file = at.file(data, "image/gif", width=width, height=height, channels=3, fps=float(fps))
            return VideoLogged(key=at.key, step=at.step, files=[file])

        return self._log(tag, make, global_step, walltime)

    def add_audio(
        self,
        tag: str,
        snd_tensor: Any,
        global_step: Any = None,
        sample_rate: int = 44100,
        walltime: float | None = None,
    ) -> Receipt:
        """Log a sound of one channel.

        Args:
            tag: Its name.
            snd_tensor: Its frames, from -1 to 1, what is louder is cut; or int16.
            global_step: An integer from 0; None is stored as 0.
            sample_rate: Frames a second.
            walltime: When, seconds since the epoch; now by default.

        Raises:
            BadInputError: The tag, the sound or the step can't be recorded, and bad input raises.
        """

        def make(at: Place) -> AudioLogged:
            samples = array_of(tag, snd_tensor).squeeze()
            if samples.ndim > 1:
                raise BadInputError(f"{shown(tag)} has shape {samples.shape}: a sound is one row of frames")
            data, channels, frames = wav(tag, samples, sample_rate)
            file = at.file(data, "audio/wav", sample_rate=sample_rate, channels=channels, frames=frames)
            return AudioLogged(key=at.key, step=at.step, files=[file])

        return self._log(tag, make, global_step, walltime)


def _images(at: Place, picture: Picture) -> ImagesLogged:
    return ImagesLogged(key=at.key, step=at.step, files=[at.picture(picture)])
