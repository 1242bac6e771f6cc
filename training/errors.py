"""What can go wrong in a job, one class per situation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventbus.errors import ConfigurationError, TrackbusError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from training.plan import JobResult


class JobError(ConfigurationError):
    """Raised when a job can't be run as it is written: the message names the file or component, and the way out."""


class RoundFailedError(TrackbusError, RuntimeError):
    """Raised when too few sites answered.

    Attributes:
        problems: Why, by site.
    """

    def __init__(self, what: str, needed: int, accepted: int, problems: Mapping[str, str]) -> None:
        """Name what failed, and every site's reason."""
        reasons = "; ".join(f"{site}: {reason}" for site, reason in problems.items()) or "there are no more sites"
        super().__init__(f"{what}: {accepted} of the {needed} answers needed came ({reasons})")
        self.problems = dict(problems)


class UpdateRefusedError(TrackbusError, ValueError):
    """Raised when a site's update can't be used; what was gathered before stays as it was.

    Attributes:
        site: Whose update it was.
        reason: What is wrong with it.
    """

    def __init__(self, site: str, reason: str) -> None:
        """Keep the site and the reason apart, for whoever reports them."""
        super().__init__(f"the update of site {site!r} is refused: {reason}")
        self.site = site
        self.reason = reason


class TooFewSitesError(TrackbusError, RuntimeError):
    """Raised when so many sites have left that the job can't go on.

    Attributes:
        left: Why they did, by site.
    """

    def __init__(self, needed: int, there: int, left: Mapping[str, str]) -> None:
        """Name what is needed, and every site's reason."""
        reasons = "; ".join(f"{site}: {reason}" for site, reason in left.items())
        super().__init__(f"the job needs {needed} sites, and {there} are left ({reasons})")
        self.left = dict(left)


class SourceError(TrackbusError, ValueError):
    """Raised when a file is no Python that this interpreter reads.

    Attributes:
        line: Where, from 1.
    """

    def __init__(self, why: str, line: int | None = None) -> None:
        """Say why, and where it is known where."""
        super().__init__(why)
        self.line = line or 1


class ClientError(TrackbusError, RuntimeError):
    """Raised by the client API when it is used out of order, or when its server is gone."""


class JobFailedError(TrackbusError, RuntimeError):
    """Raised to a program whose job has ended without doing all of its work, or has lost events.

    Attributes:
        result: What it did.
    """

    def __init__(self, what: str, result: JobResult) -> None:
        """Say what has failed."""
        super().__init__(what)
        self.result = result
