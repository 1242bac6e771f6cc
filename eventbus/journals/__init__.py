"""The kinds of journal: `memory` for tests, `sqlite` for everything embedded."""

from eventbus.journals.memory import MemoryJournal
from eventbus.journals.sqlite import SqliteJournal

__all__ = ["MemoryJournal", "SqliteJournal"]
