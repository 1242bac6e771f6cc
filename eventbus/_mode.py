"""The switch that turns all recording off: `TRACKBUS_MODE=disabled`."""

from __future__ import annotations

import os

from eventbus.errors import ConfigurationError

MODE = "TRACKBUS_MODE"
"""Environment variable: `disabled` turns all recording off; unset, empty or `enabled` leaves it on."""


def is_disabled() -> bool:
    """Tell whether nothing is to be recorded.

    Raises:
        ConfigurationError: The environment names a mode that is not known.
    """
    mode = os.environ.get(MODE, "")
    if mode not in ("", "enabled", "disabled"):
        msg = f"{MODE}={mode!r} is not known: use 'disabled', or unset it"
        raise ConfigurationError(msg)
    return mode == "disabled"
