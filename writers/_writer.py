"""The one writer that all others are made of."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from eventbus import Receipt, Scope
from eventbus.abc import RefusedError
from eventbus.errors import BadInputError, ConfigurationError
from eventbus.workspace import address_of, check_name
from writers._artifacts import artifact_of, files_of, path_of
from writers._intake import Intake, OnBadInput
from writers._mode import bus_for, made_again
from writers._runs import runs_of
from writers._sampling import sample_if_asked

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from eventbus._bus import Bus
    from eventbus.blobs import BlobStore
    from eventbus.tracking import RunStatus, TrackingEvent

LEFT_OUT = "every value of the call was left out as bad input"
"""Why a receipt is refused where nothing of a call could be recorded, and bad input does not raise."""

ENDED = "the run has ended"
"""What keeps a writer from logging on without beginning its run again."""


class TrackingWriter:
    """Logs numbers, parameters, tags, configuration and texts of one run.

    Every call costs microseconds and returns a `Receipt`: ignore it, await it, or ask it. Nothing that a
    tracker, a disk or a network does ever raises here; only input that can't be recorded does. Legal from any
    thread.

    Args:
        bus: Where to publish; by default the current bus.
        run: Id of the run, by default the bus's own; writers with the same one log to the same run.
        scope: Whether what is logged stays at its site (`LOCAL`) or may cross to the server (`FEDERATED`); by default
            what the bus says, which is `LOCAL` unless it was opened otherwise.
        prefix: Put before the keys of metrics and texts as it stands, for example `train/`.
        on_bad_input: `raise`: a key, value or step that can't be recorded raises, and nothing of its call is
            logged. `count`: it is left out, counted in `bad_inputs` and warned about once per key; the rest
            is logged, without its step if that is what was wrong.

    Raises:
        NoBusError: No bus is given and none is open.
        AmbiguousBusError: No bus is given and several are open.
        BusStateError: The bus is not entered.
        BadInputError: No key can begin with the prefix.
        ConfigurationError: The run's name is not legal, or an option is not known.
    """

    def __init__(
        self,
        *,
        bus: Bus | None = None,
        run: str | None = None,
        scope: Scope | None = None,
        prefix: str = "",
        on_bad_input: OnBadInput = "raise",
    ) -> None:
        if not isinstance(scope, Scope | None):  # pyright: ignore[reportUnnecessaryIsInstance] - callers are not all checked
            msg = f"scope={scope!r} is not a scope: use Scope.LOCAL or Scope.FEDERATED"
            raise ConfigurationError(msg)
        self._bus = bus_for(bus)
        self._run = run_name(self._bus, run)
        self._scope = self._bus.scope if scope is None else scope
        self._intake = Intake(prefix, on_bad_input)
        self._runs = runs_of(self._bus)
        self._not_started = self._runs.start(self._bus, self._run, self._scope)
        sample_if_asked(self)

    def bind(self, *, run: str | None = None, scope: Scope | None = None, prefix: str = "") -> TrackingWriter:
        """Return a new writer on the same bus; what is not given stays as it is here.

        Args:
            run: Id of the run that it logs to.
            scope: How far its records travel.
            prefix: Put before the keys of its metrics and texts as it stands, after this writer's own prefix.

        Raises:
            BadInputError: No key can begin with the prefix.
            ConfigurationError: The run's name is not legal.
        """
        return TrackingWriter(
            bus=self._bus,
            run=self._run if run is None else run,
            scope=self._scope if scope is None else scope,
            prefix=self._intake.prefix + prefix,
            on_bad_input=self._intake.bad.on_bad_input,
        )

    # --- what it is -----------------------------------------------------------------------------------------

    @property
    def bus(self) -> Bus:
        """Where it publishes."""
        return self._bus

    @property
    def run(self) -> str:
        """Id of the run."""
        return self._run

    @property
    def scope(self) -> Scope:
        """How far its records travel."""
        return self._scope

    @property
    def intake(self) -> Intake:
        """What checks this writer's input and makes events of it."""
        return self._intake

    @property
    def bad_inputs(self) -> Mapping[str, int]:
        """How much was left out, by key, since it could not be recorded."""
        return self._intake.bad.counts

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process with the address of the bus, which is opened there."""
        options = {"run": self._run, "scope": self._scope, "prefix": self._intake.prefix}
        options["on_bad_input"] = self._intake.bad.on_bad_input
        return made_again, (type(self), address_of(self._bus), options)

    def __deepcopy__(self, memo: object) -> Self:
        """Return the writer itself: it is a way to its bus, and holds nothing of its own."""
        return self

    def __copy__(self) -> Self:
        """Do what a deep copy does."""
        return self

    def __repr__(self) -> str:
        return f"TrackingWriter(run={self._run!r}, scope={self._scope.name}, prefix={self._intake.prefix!r})"

    # --- logging --------------------------------------------------------------------------------------------

    def log(
        self,
        values: Mapping[str, object],
        step: object = None,
        *,
        time_ns: int | None = None,
        main_tag: str | None = None,
    ) -> Receipt:
        """Log numbers measured at one moment.

        Args:
            values: Number by key: float, int, bool (as 0 or 1), a numpy scalar, a 0-d array or tensor, or
                whatever else has a float of its own; NaN and infinities are kept.
            step: Where on your own axis: an integer from 0. None: receivers store it as 0.
            time_ns: When, nanoseconds since the epoch; now by default.
            main_tag: Tag shared by numbers that are drawn in one chart.

        Raises:
            BadInputError: A key, value or step can't be recorded, and bad input raises.
        """
        now = time.time_ns() if time_ns is None else self._intake.moment("time_ns", time_ns, 1)
        return self.publish(self._intake.metrics(values, step, main_tag), values, now)

    def log_params(self, values: Mapping[str, object]) -> Receipt:
        """Log parameters of the run: set once, not measured. What is no number and no text becomes its text.

        Raises:
            BadInputError: A key or value can't be recorded, and bad input raises.
        """
        return self.publish(self._intake.params(values), values)

    def set_tags(self, values: Mapping[str, object]) -> Receipt:
        """Label the run; a later label replaces an earlier one. What is no text becomes its text.

        Raises:
            BadInputError: A key or value can't be recorded, and bad input raises.
        """
        return self.publish(self._intake.tags(values), values)

    def update_config(self, values: Mapping[str, object]) -> Receipt:
        """Set values of the run's configuration, nested as they are; a later one replaces an earlier one.

        Raises:
            BadInputError: A key or value can't be recorded, and bad input raises.
        """
        return self.publish(self._intake.config(values), values)

    def log_text(
        self,
        key: str,
        text: str,
        step: object = None,
        is_file: bool = False,  # noqa: FBT001, FBT002 - callers name it
    ) -> Receipt:
        """Log a text of up to 900 000 bytes.

        Args:
            key: Its tag, or its path within the run.
            text: The text.
            step: Where on your own axis; None where there is none.
            is_file: Whether `key` is the path of a file.

        Raises:
            BadInputError: The key, the text or the step can't be recorded, and bad input raises.
        """
        return self.publish(self._intake.text(key, text, step, is_file=is_file), {key: text})

    def log_artifact(
        self,
        local_path: str | os.PathLike[str],
        name: str | None = None,
        *,
        path: str = "",
        kind: str = "",
        aliases: Sequence[str] = (),
        metadata: Mapping[str, object] | None = None,
        description: str = "",
        immutable: bool = False,
    ) -> Receipt:
        """Log a file, or all files of a folder, as they are now; the caller may change or delete them afterwards.

        Args:
            local_path: The file or the folder.
            name: Its name; by default that of the file or folder.
            path: Where the files lie in it: a relative path with slashes.
            kind: What it is: `dataset`, `checkpoint`, ...; empty for plain files of the run.
            aliases: Names of this version.
            metadata: What else is known of it: nested values, as a configuration's.
            description: For people.
            immutable: Whether nobody will ever change the files: then they are linked, not copied, where the file
                system can do that.

        Raises:
            BadInputError: The files can't be read, or can't be recorded so, and bad input raises.
        """

        def make(store: BlobStore) -> list[TrackingEvent]:
            key = path_of(local_path).name if name is None else name
            event = artifact_of(key, kind, aliases, metadata, description)
            files = files_of(store, local_path, path, immutable=immutable)
            if not files:
                raise BadInputError(f"{key} is a folder without files: log it when there is something in it")
            return [event.model_copy(update={"files": files})]

        return self.publish_kept(make, local_path, name=name or local_path)

    def publish(self, events: Sequence[TrackingEvent], given: object, time_ns: int | None = None) -> Receipt:
        """Publish what the intake made of one call, all at the same time.

        Args:
            events: The events, in order.
            given: What the call was given: nothing of it may be lost in silence.
            time_ns: When, nanoseconds since the epoch; now by default.

        Returns:
            The last event's receipt, or that of the first one that was refused.
        """
        if self._not_started is not None:
            self._not_started = self._runs.start(self._bus, self._run, self._scope)
            if self._not_started is not None:
                return Receipt(self._bus, 0, self._not_started)
        now = time.time_ns() if time_ns is None else time_ns
        receipt: Receipt | None = None
        for event in events:
            one = self._bus.publish(event, scope=self._scope, run=self._run, time_ns=now)
            if receipt is None or receipt.refused is None:
                receipt = one
        return receipt or Receipt(self._bus, 0, None if _is_empty(given) else LEFT_OUT)

    def publish_kept(
        self,
        make: Callable[[BlobStore], Sequence[TrackingEvent]],
        given: object,
        time_ns: int | None = None,
        *,
        name: object = None,
    ) -> Receipt:
        """Keep the payloads of one call, then publish the events that name them.

        Args:
            make: Puts the payloads into the store that it is given and returns the events.
            given: What the call was given, see `publish`.
            time_ns: When, nanoseconds since the epoch; now by default.
            name: Under which bad input is counted; None lets it raise in any case, for a caller that counts it.

        Returns:
            The last event's receipt, or that of the first one that was refused. A payload that the store can't take
            is such a refusal: nothing of the call is published then.
        """
        now = time.time_ns() if time_ns is None else time_ns
        try:
            return self.publish(make(self._bus.blobs), given, now)
        except RefusedError as error:
            return self._bus.refuse(str(error))
        except BadInputError as error:
            if name is None:
                raise
            self._intake.bad.note(name, error)
            return Receipt(self._bus, 0, LEFT_OUT)

    # --- ending ---------------------------------------------------------------------------------------------

    def finish(self, status: RunStatus | str | None = None, reason: str = "") -> Receipt:
        """Say how the run ended; it ends when the bus is left, and the last word counts.

        Args:
            status: `FINISHED`, `FAILED` or `KILLED`. None leaves it to how the bus is left: an exception is
                FAILED, an interrupt or a cancellation KILLED, else FINISHED.
            reason: Why, for people.

        Returns:
            What `flush` returns.

        Raises:
            BadInputError: The status is not known, and bad input raises.
        """
        try:
            self._runs.finish(self._run, status, reason)
        except BadInputError as error:
            self._intake.bad.note("status", error)
        return self.flush()

    def end(self, status: RunStatus | str, reason: str = "") -> Receipt:
        """End the run now, for all its writers; what is logged to it from now on begins it again.

        Args:
            status: `FINISHED`, `FAILED` or `KILLED`.
            reason: Why, for people.

        Returns:
            What `flush` returns.

        Raises:
            BadInputError: The status is not known.
        """
        self._runs.close(self._run, status, reason)
        self._not_started = ENDED
        return self.flush()

    def flush(self) -> Receipt:
        """Return a receipt that covers all that was published on this bus so far. Waits for nothing.

        Wait for the trackers with `await writer.flush().delivered(timeout)` or `.wait_delivered(timeout)`.
        """
        return Receipt(self._bus, self._bus.journal.last_seq)

    def close(self) -> Receipt:
        """Do what `flush` does: the run ends with the bus. Legal twice, and logging stays legal."""
        return self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def run_name(bus: Bus, run: str | None) -> str:
    """Return the id of a run: the one given, else the bus's own.

    Raises:
        ConfigurationError: It is no legal name.
    """
    name = run or getattr(bus, "run", None) or bus.origin.job
    return check_name("run", name)


def _is_empty(given: object) -> bool:
    return isinstance(given, Mapping) and not given
