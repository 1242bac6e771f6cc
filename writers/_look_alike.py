"""What the look-alikes of the trackers' SDKs have in common: each holds one writer."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, cast

from eventbus import Receipt, Scope
from eventbus.workspace import address_of
from writers._mode import made_again
from writers._writer import TrackingWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from eventbus._bus import Bus
    from writers._intake import OnBadInput


P = ParamSpec("P")
R = TypeVar("R")


def also_named(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a method take arguments by another name too: `scalar="scalar_value"`.

    NVFLARE's writers have the methods of the SDKs, but not all of their argument names, and scripts written for it call
    them by name.
    """

    def decorate(method: Callable[P, R]) -> Callable[P, R]:
        @wraps(method)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            given = cast("dict[str, Any]", kwargs)
            for name in names.keys() & given.keys():
                if names[name] in given:
                    raise TypeError(f"{method.__name__}() got {names[name]!r} twice: also as {name!r}")
                given[names[name]] = given.pop(name)
            return method(*args, **kwargs)

        return call

    return decorate


class LookAlike:
    """Base of the look-alikes.

    Args:
        bus: Where to publish; by default the current bus.
        run: Id of the run; by default the bus's own, so that all writers of a bus log to one run.
        scope: Whether what is logged stays at its site or may cross to the server; by default what the bus says.
        on_bad_input: Whether what can't be recorded raises, or is left out and counted.

    Attributes:
        tracking: The writer that it is made of.

    Raises:
        NoBusError: No bus is given and none is open.
        AmbiguousBusError: No bus is given and several are open.
        BusStateError: The bus is not entered.
        ConfigurationError: The run's name is not legal, or an option is not known.
    """

    def __init__(
        self,
        *,
        bus: Bus | None = None,
        run: str | None = None,
        scope: Scope | None = None,
        on_bad_input: OnBadInput = "raise",
    ) -> None:
        self.tracking = TrackingWriter(bus=bus, run=run, scope=scope, on_bad_input=on_bad_input)

    @property
    def bad_inputs(self) -> Mapping[str, int]:
        """How much was left out, by key, since it could not be recorded."""
        return self.tracking.bad_inputs

    def flush(self) -> Receipt:
        """Return a receipt that covers all that was published on this bus so far. Waits for nothing."""
        return self.tracking.flush()

    def close(self) -> Receipt:
        """Do what `flush` does: the run ends with the bus. Legal twice."""
        return self.tracking.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.tracking.__exit__(kind, error, traceback)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process with the address of the bus, which is opened there."""
        return made_again, (type(self), address_of(self.tracking.bus), self._options())

    def _options(self) -> dict[str, Any]:
        """Return what makes another writer of the same run."""
        tracking = self.tracking
        on_bad_input = tracking.intake.bad.on_bad_input
        return {"run": tracking.run, "scope": tracking.scope, "on_bad_input": on_bad_input}

    def __deepcopy__(self, memo: object) -> Self:
        """Return the writer itself: a copy would count the same steps again."""
        return self

    def __copy__(self) -> Self:
        """Do what a deep copy does."""
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}(run={self.tracking.run!r}, scope={self.tracking.scope.name})"
