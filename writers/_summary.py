"""What the methods of `SummaryWriter` have in common: one event of one tag, its payloads kept before it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import JsonValue, ValidationError

from eventbus import Receipt
from eventbus.abc import RefusedError
from eventbus.errors import BadInputError, MissingExtraError
from eventbus.media import MediaFile
from writers._keys import check_key, shown
from writers._look_alike import LookAlike
from writers._values import NS_PER_SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from eventbus.blobs import BlobStore
    from eventbus.tracking import TrackingEvent
    from writers._pixels import Picture


class Place(NamedTuple):
    """Where a call logs.

    Attributes:
        key: Its tag, checked.
        step: On the user's axis; None where there is none.
        store: Where payloads are kept.
    """

    key: str
    step: int | None
    store: BlobStore

    def file(self, data: bytes, media_type: str, **details: JsonValue) -> MediaFile:
        """Keep what was encoded."""
        return MediaFile(blob=self.store.put(data), media_type=media_type, details=details)

    def picture(self, picture: Picture) -> MediaFile:
        """Keep a picture."""
        size: dict[str, JsonValue] = {"width": picture.width, "height": picture.height}
        return self.file(picture.png, "image/png", **size, channels=picture.channels)


class SummaryMethods(LookAlike):
    """Base of the parts of `SummaryWriter`."""

    def _log(
        self, tag: object, make: Callable[[Place], TrackingEvent], global_step: Any = None, walltime: Any = None
    ) -> Receipt:
        """Publish the event that `make` makes; what can't be recorded raises, or is left out and counted."""
        intake = self.tracking.intake

        def events(store: BlobStore) -> list[TrackingEvent]:
            with _checked(tag):
                return [make(Place(check_key(tag), intake.step(global_step), store))]

        try:
            return self.tracking.publish_kept(events, tag, self._moment(walltime))
        except BadInputError as error:
            intake.bad.note(tag, error)
            return self.tracking.publish([], tag)

    def _moment(self, walltime: object) -> int | None:
        return self.tracking.intake.moment("walltime", walltime, NS_PER_SECOND)


@contextmanager
def _checked(tag: object) -> Generator[None]:
    """Say by the tag what could not be taken apart, drawn or encoded; the environment's faults are refusals."""
    try:
        yield
    except (BadInputError, MissingExtraError, RefusedError):
        raise
    except (OSError, MemoryError) as error:
        raise RefusedError(f"{shown(tag)} can't be recorded now: {_cause(error)}") from error
    except ValidationError as error:
        raise BadInputError(f"{shown(tag)} can't be recorded: {error.errors()[0]['msg']}") from error
    except Exception as error:  # border: the caller's objects run here, and matplotlib, Pillow and numpy on them
        raise BadInputError(f"{shown(tag)} can't be recorded: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
