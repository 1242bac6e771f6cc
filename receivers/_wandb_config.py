"""Settings of the W&B receiver, and what can be said of them before anything starts; loads no SDK."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field
from pydantic_core import PydanticSerializationError

from eventbus.errors import ConfigurationError, MissingExtraError
from receivers._wandb_args import check_arguments
from receivers._wandb_login import base_url, check_login, host, is_reachable
from receivers.abc import SinkConfig

_MODES = ("online", "offline", "disabled")
_logger = logging.getLogger("trackbus.receivers")


class WandBConfig(SinkConfig):
    """Settings of W&B.

    Attributes:
        mode: `offline` keeps all in files for `wandb sync`, `online` sends it as well, `disabled` drops it.
        wandb_args: What `wandb.init` takes: `project`, `entity`, `name` (the site's is put before it),
            `group`, `job_type`, `tags`, `notes`, `config`, `dir` (relative to the workspace) and `settings`
            (a dict).
        fallback: With `offline`, an online receiver records offline where there is no key, or where the server gives
            no sign of life when it is subscribed. Otherwise a missing key is an error, and a server is waited for.
    """

    kind: ClassVar[str] = "wandb"
    sink: ClassVar[str] = "receivers.wandb:WandBSink"

    mode: str = "offline"
    wandb_args: dict[str, Any] = Field(default={})
    fallback: Literal["offline"] | None = None

    def check(self, workspace: Path) -> None:
        """Refuse what `wandb.init` would refuse, fall over, or ask a person about.

        Raises:
            ConfigurationError: The mode or an argument can't work, or there is no key for the server.
            MissingExtraError: The SDK is not installed.
        """
        if self.mode not in _MODES:
            raise ConfigurationError(f"unknown mode {self.mode!r}: use one of {', '.join(_MODES)}")
        check_arguments(self.wandb_args)
        self._check_travels()
        if self.mode == "disabled":
            return
        if find_spec("wandb") is None:
            raise MissingExtraError("W&B's SDK is not installed: pip install 'trackbus[wandb]'")
        if self.folder(workspace).is_file():
            raise ConfigurationError(f"dir={self.wandb_args['dir']!r} is a file; name a folder")
        if self.fallback and self.mode != "online":
            raise ConfigurationError(f"fallback={self.fallback!r} is for mode='online', not for {self.mode!r}")
        if self.mode == "online" and not (self.fallback and self._problem()):
            check_login(self.url())

    def settle(self) -> Self:
        """Take the fallback if it is wanted and needed, and say so."""
        problem = self._problem() if self.fallback else ""
        if not problem and self.fallback and not is_reachable(self.url()):
            problem = f"{host(self.url()) or 'W&B'} gives no sign of life"
        if not problem:
            return self
        _logger.warning("W&B: %s: runs are recorded offline; upload them with `wandb sync`", problem)
        return self.model_copy(update={"mode": "offline"})

    def _problem(self) -> str:
        """Say why there is no login that could work; empty if there is one."""
        try:
            check_login(self.url())
        except ConfigurationError as error:
            return str(error)
        return ""

    def modes(self) -> tuple[str, ...]:
        """Return the modes in which the runs' files may have been written."""
        return ("online", "offline") if self.fallback else (self.mode,)

    def _check_travels(self) -> None:
        try:
            self.model_dump_json()
        except (PydanticSerializationError, ValueError) as error:
            raise ConfigurationError(f"wandb_args travel to the worker as JSON: {error}") from error

    def folder(self, workspace: Path) -> Path:
        """Return the folder that holds the SDK's folder `wandb`."""
        return (workspace / Path(self.wandb_args.get("dir") or ".").expanduser()).absolute()

    def url(self) -> str:
        """Return the server's address; empty for W&B's own cloud."""
        return self.wandb_args.get("settings", {}).get("base_url") or base_url()

    def destination(self, workspace: Path) -> str:
        """Name the folder, or the server with entity and project."""
        if self.mode == "online":
            return f"{self.kind}:online:{host(self.url()) or 'wandb.ai'}/{self._project_path()}"
        return f"{self.kind}:{self.mode}:{self.folder(workspace)}"

    def environment(self) -> Mapping[str, str]:
        """Keep the SDK quiet, and its reports about itself at home."""
        return {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true", "WANDB_CONSOLE": "off"}

    def look(self, workspace: Path) -> str:
        """Upload what stands in the files, or name the page."""
        if self.mode == "offline":
            return f"wandb sync {shlex.quote(str(self.folder(workspace) / 'wandb'))}/offline-run-*"
        return f"{self._page()}/{self._project_path()}".rstrip("/") if self.mode == "online" else ""

    def _page(self) -> str:
        name = host(self.url())
        return f"{self.url().partition(':')[0]}://{name}" if name else "https://wandb.ai"

    def _project_path(self) -> str:
        names = (self.wandb_args.get("entity"), self.wandb_args.get("project"))
        return "/".join(name for name in names if name)
