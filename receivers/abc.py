"""What a new tracker backend implements: a config, and a sink that runs in the worker process.

A tracker of your own needs less: see `AnalyticsReceiver` at the end, which has a sink underneath.

A sink fills one run of its tracker. The worker numbers the rows of a run from 1; the numbers are a pure function of a
plan that it commits before it writes. After a crash the same rows come again with the same numbers, in the same
batches, and the sink leaves out those that its tracker provably has. So redelivery leaves the tracker's content as one
delivery would have.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, NamedTuple, Self, TypeVar, Unpack

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from eventbus.abc import TrackerRun
from eventbus.blobs import FOLDER, BlobReader
from eventbus.errors import ConfigurationError, TrackbusError, WorkspaceError
from receivers._arguments import kept_arguments
from receivers._loading import load
from receivers._receiver import Receiver, ReceiverOptions, check_importable, import_path
from receivers._rows import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from eventbus import Envelope, Event
    from eventbus.abc import Feed
    from eventbus.tracking import RunStatus

__all__ = [
    "AnalyticsConfig",
    "AnalyticsReceiver",
    "AnalyticsSink",
    "NotAuthorisedError",
    "Position",
    "ReceiverOptions",
    "Row",
    "RunInfo",
    "Sink",
    "SinkConfig",
    "TrackerLostError",
    "TrackerRun",
    "TrackerUnavailableError",
]


@dataclass(frozen=True, slots=True)
class RunInfo:
    """The run that a sink fills.

    Attributes:
        id: Id of the run, chosen at the writer.
        site: Site that it ran at; empty where one run holds all sites.
        name: How people call the run.
        group: What its sibling runs share: the job.
        started_ns: Wall time of its first record, nanoseconds since the epoch.
    """

    id: str
    site: str
    name: str
    group: str
    started_ns: int

    @property
    def title(self) -> str:
        """Name of the tracker's run."""
        return self.titled(self.name)

    def titled(self, name: str) -> str:
        """Return the name of the tracker's run where the user chose `name` for it."""
        return f"{self.site}-{name}" if self.site else name

    @property
    def place(self) -> str:
        """What tells the run's files from those of its siblings: the site, or what no site can be called."""
        return self.site or "_combined"


class Position(NamedTuple):
    """How far a tracker provably got with a run.

    Attributes:
        row: All rows up to this number are stored and survive `kill -9` of every process of ours.
        token: What the sink needs to find this point again (a file and an offset, say); kept for it with the cursor.
    """

    row: int
    token: str = ""


class SinkConfig(BaseModel):
    """Settings of a backend: they travel to the worker as JSON, in which infinities and NaN are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, ser_json_inf_nan="constants")

    kind: ClassVar[str]
    """Short name of the backend, the receiver's name where none is given."""

    sink: ClassVar[str]
    """Import path of its sink, `module:Class`."""

    def check(self, workspace: Path) -> None:
        """Raise a `ConfigurationError` that says what to do if these settings can't work. Imports no SDK."""

    def destination(self, workspace: Path) -> str:
        """Say in one line where the data go: another destination under an old name is refused. No secrets.

        The path of the workspace may stand in it, after a colon or a slash: it counts as the same wherever that is.
        """
        return f"{self.kind}:{workspace}"

    def settle(self) -> Self:
        """Return the settings to work with from now on: asked once per subscription, before the first worker.

        A backend may look here whether its server answers, for some seconds: it runs in a thread, and training doesn't
        wait for it.
        """
        return self

    def environment(self) -> Mapping[str, str]:
        """Return what the worker's environment needs beyond the parent's: time limits, secrets."""
        return {}

    def look(self, workspace: Path) -> str:  # noqa: ARG002 - a hook: a backend without a page has nothing to say
        """Return the command with which a person looks at the result, or an empty string."""
        return ""


class TrackerUnavailableError(TrackbusError, ConnectionError):
    """Raised by a sink whose tracker can't be reached, is overloaded or answers with an error of its own.

    It says nothing about the events: they are tried again later, however often it takes.

    Attributes:
        needs_person: Whether that does not mend itself: then the tracker is seldom tried.
    """

    needs_person: ClassVar[bool] = False


class TrackerLostError(TrackerUnavailableError, WorkspaceError):
    """Raised by a sink whose tracker has lost what was stored there: nothing more is sent until a person acts.

    What was logged since stays in the journal. The message says what to do.
    """

    needs_person = True


class NotAuthorisedError(TrackerUnavailableError):
    """Raised by a sink whose tracker refuses the key or the password."""

    needs_person = True


C = TypeVar("C", bound=SinkConfig)


class Sink(ABC, Generic[C]):
    """Fills one run of a tracker; synchronous, and called by one thread.

    Any exception ends the worker: it is started again, and the sink's work goes on from its position. A
    `TrackerUnavailableError` costs no process where `abandon` allows it. An event whose rows make `write`, `flush` or
    `close` fail every time is put aside in the end; see `receivers._suspects` for what counts as failure. Its number
    stays unused: rows come with gaps then.

    Attributes:
        config: The backend's settings.
        workspace: Folder that holds the journal, and by default the tracker's files.
        batch_seconds: How long one call may take before the process is killed: an SDK's own time limits are shorter.
        counts: What was stored otherwise than logged, or not at all, by cause (`merged`, `renamed key`, ...). The
            worker empties it with each flush and keeps the sums beside the cursor.
        tracker_run: What the tracker calls the run; set by `open`, and shown without user, password and options.
        blobs: Finds the files that events name.
        take_time: To be called while `write`, `flush` or `close` makes progress at something long: the deadline begins
            anew, and the next step may take so many seconds beyond it.
    """

    batch_seconds: float = 30.0

    def __init__(self, config: C, workspace: Path) -> None:
        self.config = config
        self.workspace = workspace
        self.counts: Counter[str] = Counter()
        self.tracker_run: TrackerRun | None = None
        self.blobs = BlobReader([workspace / FOLDER])
        self.take_time: Callable[[float], None] = lambda _seconds: None

    @abstractmethod
    def open(self, run: RunInfo, committed: Position) -> int:
        """Open the run, find what the tracker has of it, and make both agree.

        Args:
            run: The run to fill.
            committed: What `flush` returned last before its batch was acknowledged; `Position(0)` for a new run.

        Returns:
            Number of the last row that is provably stored; at least `committed.row`, which is what a tracker returns
            that ignores repeated rows.
        """

    @abstractmethod
    def write(self, rows: Sequence[Row]) -> None:
        """Store one batch's rows of this run, in order, leaving out those that `open` said are stored."""

    @abstractmethod
    def flush(self) -> Position:
        """Say how far the rows are stored by now; it may be less than what was written. Never waits long."""

    @abstractmethod
    def close(self, status: RunStatus | None, reason: str = "") -> Position:
        """Store everything that was written and let go of the run.

        Args:
            status: How the run ended, or None if the run goes on and only this worker leaves it.
            reason: Why, for people.

        Returns:
            The final position: the last row written.
        """

    def abandon(self) -> bool:
        """Let go of the run at once, storing nothing: its tracker is unavailable. Also called where `open` raised.

        Returns:
            Whether this process may open the run again; False, where an SDK keeps a state of its own, starts another.
        """
        return False


# --- a receiver of your own ----------------------------------------------------------------------------------------


class AnalyticsConfig(SinkConfig):
    """Names a receiver of a user's own.

    Attributes:
        receiver: Import path of its class, `module:Class`.
        args: What it is made with again in the worker.
        place: What it says of where its data go.
    """

    kind: ClassVar[str] = "analytics"
    sink: ClassVar[str] = "receivers.abc:AnalyticsSink"

    receiver: str
    args: dict[str, JsonValue]
    place: str = ""

    def destination(self, workspace: Path) -> str:
        """Name the class, and what it says itself."""
        return f"{self.receiver}:{self.place or workspace}"


class AnalyticsReceiver(Receiver):
    """A receiver of your own: three methods, and what is logged is in your tracker.

    Subscribe one like any other. The methods are called in a worker process, on an object that is made there for each
    run of each site: with the constructor's arguments by their names, which are kept as attributes of these names (or
    with an underscore before them) and are JSON values or paths. The class stands in a module that the worker can
    import.

    An event is delivered at least once: after a crash the last ones before it may come again, with the same `event.id`.
    So a tracker that must not have them twice keeps that id with what it stores, looks in `initialize` how far it got,
    and leaves out what it has. An exception ends the worker, and the event is tried again by the next; one that fails
    every time is put aside and counted. `TrackerUnavailableError` says that it is not the event's fault.

    Args:
        **options: `name`, `layout`, `flush`, `worker`, `python` and `events`, as `Receiver` takes them; the name is by
            default that of the class.

    Attributes:
        workspace: In the worker: folder of the bus, the place for files.
        counts: In the worker: add to it, by cause, what is stored otherwise than logged, or not at all.
        blobs: In the worker: finds the files that events name. One that is missing or damaged raises `BlobError`:
            store the rest of the event then, and count it.
    """

    workspace: Path
    counts: Counter[str]
    blobs: BlobReader
    __made_with: tuple[tuple[object, ...], dict[str, object]]

    if not TYPE_CHECKING:  # a type checker would hold the `__init__` of every subclass to this signature

        def __new__(cls, *args: object, **options: object) -> Self:
            """Note what it is made with: what a subclass takes for itself does not come to the `__init__` below."""
            made = super().__new__(cls)
            made.__made_with = args, options
            return made

    def __init__(self, **options: Unpack[ReceiverOptions]) -> None:
        before = dict(vars(self))
        options["name"] = options.get("name") or type(self).__name__
        super().__init__(AnalyticsConfig(receiver=import_path(type(self)), args={}), **options)
        self._refuse_changes_of(before)
        self._at_first = dict(vars(self))

    @abstractmethod
    def initialize(self, run: RunInfo) -> None:
        """Open a run: a new one, or one that another worker has left."""

    @abstractmethod
    def save(self, event: Envelope[Event]) -> None:
        """Store one event. Other kinds than you know may come: count what you leave out in `counts`."""

    @abstractmethod
    def finalize(self, status: RunStatus | None) -> None:
        """Store what is still held back, and let go of the run.

        Args:
            status: How the run ended, or None if it goes on and only this worker leaves it.
        """

    def destination(self) -> str:
        """Say in one line where the data go, such as `return self.url`; no secrets. By default in the workspace.

        Receivers of one class need this to fill several trackers beside each other, each under a name of its own; and a
        name that was used for one destination is refused for another.
        """
        return ""

    def flush(self) -> None:
        """Store what `save` has held back: called before anything counts as stored. Nothing, if `save` stores it."""

    def check(self, feed: Feed) -> None:
        """Refuse what can't work in another process, beside what no receiver can.

        Raises:
            SubscriptionError: The class can't be imported there.
            ConfigurationError: It can't be made again there, or has overwritten an attribute of every receiver's.
        """
        check_importable(type(self), self.name)
        self._refuse_changes_of(self._at_first)
        self.config = self._settled = self._describe()
        super().check(feed)
        self._at_first = {}  # from here on the receiver changes its attributes itself

    def _refuse_changes_of(self, attributes: Mapping[str, object]) -> None:
        if taken := sorted(name for name, value in attributes.items() if getattr(self, name) is not value):
            raise ConfigurationError(
                f"every receiver has attributes {', '.join(taken)} of its own: {type(self).__name__} must call its "
                "own otherwise"
            )

    def _describe(self) -> AnalyticsConfig:
        kind = type(self)
        try:
            args = dict(kept_arguments(self, *self.__made_with))
            return AnalyticsConfig(receiver=import_path(kind), args=args, place=self.destination())
        except ValidationError as error:
            names = ", ".join(sorted({str(one["loc"][1]) for one in error.errors()}))
            raise ConfigurationError(
                f"{kind.__name__} is made again in its worker process: {names} must be JSON there, or a path"
            ) from error


class AnalyticsSink(Sink[AnalyticsConfig]):
    """Has a receiver of a user's own store one run."""

    _receiver: AnalyticsReceiver
    _row: int

    def open(self, run: RunInfo, committed: Position) -> int:
        """Make the receiver, and have it open the run."""
        self._receiver = load(self.config.receiver)(**self.config.args)
        self._receiver.workspace, self._receiver.counts = self.workspace, self.counts
        self._receiver.blobs = self.blobs
        self._receiver.initialize(run)
        self._row = committed.row
        return self._row

    def write(self, rows: Sequence[Row]) -> None:
        """Have each event stored that is new to this worker."""
        for row in rows:
            if row.number > self._row:
                self._receiver.save(row.envelope)
                self._row = row.number

    def flush(self) -> Position:
        """Have it store what it holds back."""
        self._receiver.flush()
        return Position(self._row)

    def close(self, status: RunStatus | None, reason: str = "") -> Position:  # noqa: ARG002 - nobody asked for it
        """Have it let go of the run."""
        self._receiver.flush()
        self._receiver.finalize(status)
        return Position(self._row)
