"""Everything that trackbus raises: one base, one class per situation.

What the environment does (a full disk, a dead tracker) never raises out of a log call: it is counted and shown in
`Receipt.refused` and in the report. What is raised here is a programming error or a wrong set-up, at the call that
caused it, with a message that says what to do.
"""


class TrackbusError(Exception):
    """Base of all errors of trackbus."""


class EventDefinitionError(TrackbusError, TypeError):
    """Raised when an event class is defined with a field that can't travel, or under a name already taken."""


class BadInputError(TrackbusError, ValueError):
    """Raised when a log call or a publish is given a value, key or step that can't be recorded."""


class DecodeError(TrackbusError, ValueError):
    """Raised when stored bytes are not a record of a known type and version."""


class NoBusError(TrackbusError, RuntimeError):
    """Raised when a writer is made outside any bus and none is named."""


class AmbiguousBusError(TrackbusError, RuntimeError):
    """Raised when a writer is made without `bus=` while several buses are open."""


class BusStateError(TrackbusError, RuntimeError):
    """Raised when a bus is used before it is entered, entered twice, or waited for on its own loop's thread."""


class WorkspaceError(TrackbusError, OSError):
    """Raised when a workspace folder can't be created, read or written."""


class JournalError(TrackbusError, RuntimeError):
    """Raised when a journal can't be opened or is of a kind that can't do what is asked."""


class BlobError(TrackbusError, OSError):
    """Raised when the file that an event names is not in the blob store, or is not what it was."""


class SubscriptionError(TrackbusError, ValueError):
    """Raised when a subscription is refused: a name taken twice, a consumer that needs another journal."""


class NotDeliveredError(TrackbusError, TimeoutError):
    """Raised when awaited events were not stored by every receiver in time; names the ones that lag."""


class NotSyncedError(TrackbusError, TimeoutError):
    """Raised when an awaited event did not come to the disk in time; it is in the journal all the same."""


class ConfigurationError(TrackbusError, ValueError):
    """Raised when a receiver, writer or run is configured in a way that can't work."""


class MissingExtraError(ConfigurationError, ImportError):
    """Raised when a package is needed that an extra of trackbus installs."""
