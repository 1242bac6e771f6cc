"""Checks what a log call was given and makes events of it: pure, knows no bus.

Everything of a call is checked before any of it is published, so that a call which raises has logged nothing.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeVar, cast

from pydantic import JsonValue

from eventbus._fork import held_by_forks
from eventbus.errors import BadInputError, ConfigurationError
from eventbus.tracking import (
    MAX_KEY_LENGTH,
    MAX_KEYS,
    ConfigUpdated,
    MetricsLogged,
    ParamsLogged,
    Scalar,
    TagsSet,
    TextLogged,
)
from writers._keys import Keys, shown
from writers._values import (
    LIMIT,
    MAX_VALUE_BYTES,
    json_value,
    label,
    moment_ns,
    number,
    packed_size,
    parameter,
    step_number,
    text,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OnBadInput = Literal["raise", "count"]
"""What a log call does with a value that can't be recorded: raise, or leave it out, count it and go on."""

MAX_BAD_NAMES = 1000
"""So many bad keys are counted by name, the rest together: keys made up at random must not fill memory."""

OTHERS = "<others>"
"""Under which the rest is counted."""

V = TypeVar("V")

_logger = logging.getLogger("trackbus.writers")


class BadInputs:
    """What a writer does with input that can't be recorded.

    Attributes:
        counts: How much was left out, by key.
    """

    def __init__(self, on_bad_input: OnBadInput) -> None:
        if on_bad_input not in ("raise", "count"):
            msg = f"on_bad_input={on_bad_input!r} is not known: use 'raise' or 'count'"
            raise ConfigurationError(msg)
        self.on_bad_input: OnBadInput = on_bad_input
        self.counts: Counter[str] = Counter()
        self._lock = held_by_forks(threading.Lock())

    def note(self, key: object, error: BadInputError) -> None:
        """Raise the error, or count it and warn once per key."""
        if self.on_bad_input == "raise":
            raise error
        self.count(key, error)

    def count(self, key: object, error: Exception) -> None:
        """Count what was left out, and warn once per key."""
        name = key if isinstance(key, str) and len(key) <= MAX_KEY_LENGTH else shown(key)
        with self._lock:
            if name not in self.counts and len(self.counts) >= MAX_BAD_NAMES:
                name = OTHERS
            self.counts[name] += 1
            is_first = self.counts[name] == 1
        if is_first:
            _logger.warning("left out of the log: %s; more of the same are only counted", error)


class Intake:
    """Makes events of what one writer is given.

    Args:
        prefix: Put before the keys of metrics and texts.
        on_bad_input: Whether input that can't be recorded raises, or is left out and counted.

    Attributes:
        bad: The input that was left out.
    """

    def __init__(self, prefix: str = "", on_bad_input: OnBadInput = "raise") -> None:
        self.bad = BadInputs(on_bad_input)
        self._keys = Keys(prefix)
        self._plain_keys = Keys()

    @property
    def prefix(self) -> str:
        """What is put before the keys of metrics and texts."""
        return self._keys.prefix

    def metrics(self, values: object, step: object = None, main_tag: str | None = None) -> list[MetricsLogged]:
        """Make events of numbers by key; more than one event has room for are split over several.

        Args:
            values: A mapping of numbers by key.
            step: Where on the user's axis.
            main_tag: Shared by numbers that are drawn in one chart; it takes the prefix in place of the keys.

        Raises:
            BadInputError: A key, a value or the step can't be recorded, and bad input raises.
        """
        position = None if step is None else self.step(step)
        if main_tag is None:
            tag, keys = None, self._keys
        else:
            tag, keys = self._checked(main_tag, lambda: self._keys.check(main_tag)), self._plain_keys
        clean = self._converted(values, keys, number)
        if not clean or (main_tag and not tag):  # without their tag the keys would name other metrics
            return []
        parts = [clean] if len(clean) <= MAX_KEYS else _parts(clean, lambda _key, _value: 9)
        return [MetricsLogged(values=part, step=position, main_tag=tag) for part in parts]

    def params(self, values: object) -> list[ParamsLogged]:
        """Make events of parameters by key.

        Raises:
            BadInputError: A key or value can't be recorded, and bad input raises.
        """
        clean: dict[str, Scalar] = self._converted(values, self._plain_keys, parameter)
        return [ParamsLogged(values=part) for part in _parts(clean, packed_size)]

    def tags(self, values: object) -> list[TagsSet]:
        """Make events of tags by key.

        Raises:
            BadInputError: A key or value can't be recorded, and bad input raises.
        """
        clean: dict[str, str] = self._converted(values, self._plain_keys, label)
        return [TagsSet(values=part) for part in _parts(clean, packed_size)]

    def config(self, values: object) -> list[ConfigUpdated]:
        """Make events of configuration values by key.

        Raises:
            BadInputError: A key or value can't be recorded, and bad input raises.
        """
        clean = self._converted(values, self._plain_keys, _config_value)
        return [ConfigUpdated(values=part) for part in _parts(clean, packed_size)]

    def text(self, key: object, body: object, step: object = None, *, is_file: bool = False) -> list[TextLogged]:
        """Make the event of a text.

        Raises:
            BadInputError: The key, the text or the step can't be recorded, and bad input raises.
        """
        position = None if step is None else self.step(step)
        return [
            TextLogged(key=full, text=clean, step=position, is_file=is_file)
            for full, clean in self._converted({key: body}, self._keys, text).items()
        ]

    def key(self, key: object) -> str | None:
        """Return the full name of a key, as metrics and texts have it; a bad one that does not raise is none.

        Raises:
            BadInputError: It is no name, and bad input raises.
        """
        try:
            return self._keys.known.get(key) or self._keys.check(key)
        except BadInputError as error:
            self.bad.note(key, error)
            return None

    def step(self, step: object) -> int | None:
        """Return a step as an int; a bad one that does not raise is none, and the values stay.

        Raises:
            BadInputError: It is no step, and bad input raises.
        """
        if type(step) is int and 0 <= step < LIMIT:
            return step
        return self._checked("step", lambda: step_number(step))

    def moment(self, name: str, moment: object, unit_ns: int) -> int | None:
        """Return a caller's own time stamp in nanoseconds; a bad one that does not raise is none.

        Raises:
            BadInputError: It is no time, and bad input raises.
        """
        return None if moment is None else self._checked(name, lambda: moment_ns(name, moment, unit_ns))

    def unsupported(self, name: str, value: object, advice: str) -> bool:
        """Tell whether an option was given that can't be honoured.

        Raises:
            BadInputError: It was, and bad input raises.
        """
        if value is None:
            return False
        self.bad.note(name, BadInputError(f"{name}= is not supported: {advice}"))
        return True

    def _checked(self, name: str, check: Callable[[], V]) -> V | None:
        try:
            return check()
        except BadInputError as error:
            self.bad.note(name, error)
            return None

    def _converted(self, values: object, keys: Keys, convert: Callable[[object, object], V]) -> dict[str, V]:
        if type(values) is not dict and not isinstance(values, Mapping):
            kind = type(values).__name__
            self.bad.note(f"<{kind}>", BadInputError(f"values by key are logged, not {kind}: pass a dict"))
            return {}
        given = cast("Mapping[object, object]", values)
        known = keys.known
        clean: dict[str, V] = {}
        for key, value in given.items():
            try:
                clean[known.get(key) or keys.check(key)] = convert(key, value)
            except BadInputError as error:
                self.bad.note(key, error)
        return clean


def _config_value(key: object, value: object) -> JsonValue:
    clean = json_value(key, value)
    packed_size(key, clean)
    return clean


def _parts(values: dict[str, V], size: Callable[[str, V], int]) -> Iterator[dict[str, V]]:
    """Split a mapping so that each part fits into a record."""
    part: dict[str, V] = {}
    used = 0
    for key, value in values.items():
        needed = size(key, value) + packed_size(key, key)
        if part and (len(part) >= MAX_KEYS or used + needed > MAX_VALUE_BYTES):
            yield part
            part, used = {}, 0
        part[key] = value
        used += needed
    if part:
        yield part
