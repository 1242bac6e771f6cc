"""The training script of a job's sites: how users say it, and what the engine is told."""

from __future__ import annotations

import shlex
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from training.errors import JobError
from training.jobs._terms import ExchangeFormat, FrameworkType, TransferType
from training.plan import ParamsFormat, ScriptPlan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from training.jobs._job import FedJob, JobCtx

CommandArg = str | list[str]

T = TypeVar("T", bound=StrEnum)

_FORMATS: Mapping[FrameworkType, ParamsFormat] = {
    FrameworkType.PYTORCH: "pytorch",
    FrameworkType.NUMPY: "numpy",
    FrameworkType.RAW: "raw",
}

SHUTDOWN_TIMEOUT = 10.0
"""Seconds for a script to end by itself once the job is over, where none are given: it may have files to close."""

_MODES = ("in_process", "external_process")


class ScriptRunner:
    """Runs a training script at a site, tasked through `training.client`.

    Args:
        script: The script's file. Relative to the working folder, it keeps its relative path in the job.
        script_args: Its arguments, as a shell would take them, or in a list.
        launch_external_process: Whether it is started by `command`, as a process of its own, rather than inside the
            site's process.
        command: What starts it then; `python` and `python3` are the interpreter that runs the job.
        framework: What it gets parameters as: torch tensors, numpy arrays, or whatever was sent.
        server_expected_format: Has no effect: parameters travel as safetensors.
        params_transfer_type: DIFF sends differences where the script sends whole parameters.
        launch_once: Whether one external process serves the whole job; else each task starts one.
        launch_timeout: Seconds until the script must have called `init`; None waits for as long as it lives.
        shutdown_timeout: Seconds that it may take to end once the job is over; 0 means 10.
        memory_gc_rounds: Has no effect: a site keeps no model between tasks.
        cuda_empty_cache: Has no effect.
        execution_mode: `in_process` or `external_process`, in place of `launch_external_process`.

    Raises:
        JobError: An argument can't work.
    """

    def __init__(  # noqa: PLR0917 - NVFLARE's own arguments, in its order
        self,
        script: str,
        script_args: CommandArg = "",
        launch_external_process: bool = False,  # noqa: FBT001, FBT002 - the same
        command: CommandArg = "python3 -u",
        framework: FrameworkType | str = FrameworkType.PYTORCH,
        server_expected_format: ExchangeFormat | str = ExchangeFormat.NUMPY,
        params_transfer_type: TransferType | str = TransferType.FULL,
        launch_once: bool = True,  # noqa: FBT001, FBT002 - the same
        launch_timeout: float | None = 300.0,
        shutdown_timeout: float = 0.0,
        memory_gc_rounds: int = 0,
        cuda_empty_cache: bool = False,  # noqa: FBT001, FBT002 - the same
        execution_mode: str | None = None,
    ) -> None:
        if execution_mode not in (None, *_MODES):
            raise JobError(f"execution_mode={execution_mode!r} is not known: use one of {', '.join(_MODES)}")
        if launch_external_process and execution_mode == "in_process":
            raise JobError("launch_external_process=True and execution_mode='in_process' contradict each other")
        self.script = script
        self.script_args = script_args
        self.launch_external_process = launch_external_process or execution_mode == "external_process"
        self.command = command
        self.framework = _known(FrameworkType, "framework", framework)
        self.server_expected_format = _known(ExchangeFormat, "server_expected_format", server_expected_format)
        self.params_transfer_type = _known(TransferType, "params_transfer_type", params_transfer_type)
        self.launch_once = launch_once
        self.launch_timeout = launch_timeout
        self.shutdown_timeout = shutdown_timeout
        self.memory_gc_rounds = memory_gc_rounds
        self.cuda_empty_cache = cuda_empty_cache
        self.execution_mode = None  # said by launch_external_process
        self._format()
        self.argv()

    def add_to_fed_job(self, job: FedJob, ctx: JobCtx, tasks: Sequence[str] = ("*",)) -> None:
        """Give the script to a target of a job."""
        job.add_executor(self, list(tasks), ctx)

    def plan(self, custom: Path, tasks: Sequence[str]) -> ScriptPlan:
        """Return what the engine needs.

        Args:
            custom: The folder that the script is in.
            tasks: Names of the tasks that it serves.
        """
        arguments, command = self.argv()
        return ScriptPlan(
            script=(custom / self.script).absolute(),
            args=arguments,
            command=command if self.launch_external_process else (),
            params_format=self._format(),
            transfer="DIFF" if self.params_transfer_type is TransferType.DIFF else "FULL",
            launch_once=self.launch_once,
            launch_timeout=self.launch_timeout,
            shutdown_timeout=self.shutdown_timeout or SHUTDOWN_TIMEOUT,
            task_names=tuple(tasks),
        )

    def _format(self) -> ParamsFormat:
        if self.framework not in _FORMATS:
            known = ", ".join(_FORMATS)
            raise JobError(f"framework={self.framework.value!r} is not supported: use one of {known}")
        return _FORMATS[self.framework]

    def argv(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the words of the script's arguments, and of the command that starts it.

        Raises:
            JobError: One of them is no command line.
        """
        command = split("command", self.command)
        if self.launch_external_process and not command:
            raise JobError("command is empty: what is to start the script? `python3 -u`, say")
        return split("script_args", self.script_args), command


def split(what: str, text: CommandArg) -> tuple[str, ...]:
    """Return the words of a command line.

    Raises:
        JobError: A quotation mark is never closed, or it is no command line.
    """
    if isinstance(text, list):
        return tuple(text)
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise JobError(f"{what}={text!r} can't be read as a command line: {error}") from error


def _known(kind: type[T], name: str, value: object) -> T:
    try:
        return kind(value)
    except ValueError as error:
        raise JobError(f"{name}={value!r} is not known: use one of {', '.join(kind)}") from error
