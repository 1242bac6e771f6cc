"""What a training script's process knows of its job: the task in hand, and the link to its site."""

from __future__ import annotations

import atexit
import copy
import logging
import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import msgspec

from eventbus._exit import last_error, watch_exit
from eventbus.errors import BadInputError, DecodeError
from training._difference import difference
from training._link import Link
from training._payload import model_from, payload_of
from training._wire import ENVIRONMENT, End, Hello, Leave, LinkAddress, Result, TaskSent, Welcome
from training.errors import ClientError
from training.fl_model import FLModel, ParamsType
from writers import TrackingWriter
from writers._runs import outcome, short
from writers._sampling import asked_interval

if TYPE_CHECKING:
    from training.plan import ParamsFormat

WELCOME_SECONDS = 60.0
"""How long a site may take to answer the first word: it waits for it, so only a very busy machine needs seconds."""

_logger = logging.getLogger("trackbus.client")


@dataclass(slots=True, eq=False)
class _Assignment:
    """A task in hand.

    Attributes:
        sent: The task.
        payload: What its params were made from, where the difference is to be sent.
        model: What the script is given, and may write into.
        is_received: Whether the script has it.
        is_answered: Whether the site has the answer.
    """

    sent: TaskSent
    payload: bytes
    model: FLModel
    is_received: bool = False
    is_answered: bool = False


class Session:
    """The process that talks: rank 0 of a site's script. One thread asks for tasks and answers them.

    Attributes:
        measured: Metrics of the task in hand, which the `evaluate` decorator keeps for the answer of `train`.

    Raises:
        ClientError: This process was not started by a job, or its site does not take it.
    """

    def __init__(self) -> None:
        self.measured: dict[str, Any] | None = None
        self._address = read_address()
        self._link, self._welcome = _meet(self._address)
        self._assignment: _Assignment | None = None
        self._is_over = False
        self._process = os.getpid()
        watch_exit()
        atexit.register(self._leave_at_exit)
        if asked_interval() is not None:
            _ = self.writer  # a script that logs nothing is sampled too

    # --- tasks -------------------------------------------------------------------------------------------------------

    def is_running(self) -> bool:
        """Wait for a task; False when there are no more."""
        return self._current(None) is not None

    def receive(self, timeout: float | None = None) -> FLModel | None:
        """Return the model of the task in hand, or wait for one."""
        assignment = self._current(timeout)
        if assignment is None:
            return None
        assignment.is_received = True
        return assignment.model

    def send(self, model: FLModel, clear_cache: bool = True) -> None:  # noqa: FBT001, FBT002 - NVFLARE's own argument
        """Answer the task in hand."""
        assignment = self._to_answer(model)
        head, payload = payload_of(self._with_difference(model, assignment))
        try:
            self._link.send(Result(task=assignment.sent.task, model=head), payload)
        except OSError as error:
            self._answer_was_lost(assignment, error)
        assignment.is_answered = True
        if clear_cache:
            self.clear()

    def clear(self) -> None:
        """Forget the model that was received; the next `receive` waits for the next task."""
        if self._is_unanswered and not self._is_over:
            raise ClientError(f"the task {self.get_task_name()!r} is not answered: send() a model first")
        self._assignment = None
        self.measured = None

    def _current(self, timeout: float | None) -> _Assignment | None:
        if self._assignment is None and not self._is_over:
            self._assignment = self._next(timeout)
        return self._assignment

    def _next(self, timeout: float | None) -> _Assignment | None:
        try:
            frame = self._link.receive(timeout)
        except OSError as error:
            self._end(f"the connection to the site is lost: {error}")
            return None
        if frame is None:
            return None
        message, payload = frame
        if isinstance(message, TaskSent):
            return self._assign(message, payload)
        self._end(message.reason if isinstance(message, End) else f"the site sent {type(message).__name__}, not a task")
        return None

    def _assign(self, task: TaskSent, payload: bytes) -> _Assignment:
        try:
            model = model_from(task.model, payload, self._params_format)
        except DecodeError as error:  # nobody can answer it: the site would wait for ever
            self._leave(short(f"the task {task.name!r} can't be read: {error}"))
            raise
        return _Assignment(task, payload if self._sends_difference else b"", model)

    def _to_answer(self, model: object) -> _Assignment:
        if not isinstance(model, FLModel):
            raise BadInputError(f"a {type(model).__name__} can't be sent: send a flare.FLModel")
        assignment = self._assignment
        if assignment is None or not assignment.is_received:
            raise ClientError("there is no task to answer: call receive() first, and send() once for each task")
        if assignment.is_answered:
            raise ClientError(f"the task {assignment.sent.name!r} is answered: clear(), then receive() the next one")
        if model.params is None and model.metrics is None:
            raise ClientError(
                "the model to send has neither params nor metrics: give it FLModel(params=..., metrics=...)"
            )
        return assignment

    def _with_difference(self, model: FLModel, assignment: _Assignment) -> FLModel:
        """Return the model with the difference from what was received in place of whole weights, if that is asked."""
        if model.params is None or model.params_type is ParamsType.DIFF or not assignment.payload:
            return model
        received = model_from(assignment.sent.model, assignment.payload, self._params_format)  # unspoilt by the script
        answer = copy.copy(model)
        answer.params = difference(model.params, received.params or {})
        answer.params_type = ParamsType.DIFF
        return answer

    @property
    def _sends_difference(self) -> bool:
        return self._welcome.transfer == ParamsType.DIFF

    @property
    def _params_format(self) -> ParamsFormat:
        return cast("ParamsFormat", self._welcome.params_format)

    @property
    def _is_unanswered(self) -> bool:
        return self._assignment is not None and not self._assignment.is_answered

    # --- what it knows -----------------------------------------------------------------------------------------------

    def get_task_name(self) -> str:
        """Return the name of the task in hand."""
        if self._assignment is None:
            raise ClientError("there is no task in hand: call receive() first")
        return self._assignment.sent.name

    def is_task(self, name: str) -> bool:
        """Tell whether the task in hand is called so."""
        return self._assignment is not None and self._assignment.sent.name == name

    def get_config(self) -> dict[str, Any]:
        """Return what the job says to its scripts."""
        return self._welcome.config | self.system_info()

    def system_info(self) -> dict[str, Any]:
        """Return the names of job and site."""
        return {"job_id": self._welcome.job, "site_name": self._welcome.site}

    @cached_property
    def writer(self) -> TrackingWriter:
        """Logs to the job's trackers, through the bus that the environment names."""
        return TrackingWriter()

    # --- the end -----------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Leave the job; legal twice."""
        task = self.get_task_name() if self._is_unanswered else None
        self._leave("" if task is None else f"it called shutdown() before it answered the task {task!r}")

    def _end(self, reason: str) -> None:
        if reason:
            _logger.warning("no more tasks come: %s", reason)
        self._is_over = True
        self._link.close()

    def _answer_was_lost(self, assignment: _Assignment, error: OSError) -> None:
        """Go on quietly if the job has ended meanwhile, so that nobody wants the answer; else say that it is lost."""
        reason = _read_end(self._link)
        self._assignment = None
        if reason is not None:
            self._end(f"{reason or 'the job is over'}; this answer was not waited for")
            return
        self._end("")
        raise ClientError(
            f"the answer to the task {assignment.sent.name!r} is lost, since the connection to the site is: {error}"
        ) from error

    def _leave_at_exit(self) -> None:
        if os.getpid() != self._process:  # a forked child's end is not the script's
            return
        _, reason = outcome(last_error())
        if not reason and self._is_unanswered:
            reason = f"it ended without an answer to the task {self.get_task_name()!r}"
        self._leave(reason)

    def _leave(self, error: str) -> None:
        if self._is_over:
            return
        try:
            self._link.send(Leave(error=error))
        except OSError as failure:  # the site is gone: nobody is left to be told
            _logger.debug("the site is gone before the script: %s", failure)
        self._assignment = None
        self._end("")


class OtherRank:
    """A process of a script on several ranks that is not the one that talks: rank 0 hands it what it needs.

    Args:
        rank: Which one.

    Raises:
        ClientError: This process was not started by a job.
    """

    def __init__(self, rank: int) -> None:
        self.measured: dict[str, Any] | None = None
        self._rank = rank
        self._address = read_address()

    def is_running(self) -> bool:
        """Return False: no task ever comes here."""
        return False

    def receive(self, timeout: float | None = None) -> None:
        """Return None, at once."""

    def send(self, model: FLModel, clear_cache: bool = True) -> None:  # noqa: FBT001, FBT002 - NVFLARE's own argument
        """Do nothing: rank 0 answers."""

    def clear(self) -> None:
        """Do nothing."""

    def get_task_name(self) -> str:
        """Refuse: rank 0 knows."""
        raise self._refusal("get_task_name")

    def is_task(self, name: str) -> bool:
        """Refuse: rank 0 knows."""
        raise self._refusal(f"whether the task is {name!r}")

    def get_config(self) -> dict[str, Any]:
        """Return the names of job and site."""
        return self.system_info()

    def system_info(self) -> dict[str, Any]:
        """Return the names of job and site."""
        return {"job_id": self._address.job, "site_name": self._address.site}

    @property
    def writer(self) -> TrackingWriter:
        """Refuse: rank 0 logs for the site."""
        raise self._refusal("log")

    def shutdown(self) -> None:
        """Do nothing."""

    def _refusal(self, what: str) -> ClientError:
        return ClientError(f"{what}: rank 0 alone is told, and this is rank {self._rank}; ask `if rank == 0:` first")


AnySession = Session | OtherRank

_opened: list[AnySession] = []
_opening = threading.Lock()


def open_session(rank: str | int | None) -> None:
    """Meet the site, once per process.

    Raises:
        BadInputError: The rank is not a number.
        ClientError: This process was not started by a job, or its site does not take it.
    """
    number = _rank(rank)
    with _opening:
        if not _opened:
            _opened.append(Session() if number == 0 else OtherRank(number))


def session() -> AnySession:
    """Return the session of this process.

    Raises:
        ClientError: There is none yet.
    """
    if not _opened:
        raise ClientError("this process has not met its site yet: call flare.init() first")
    return _opened[0]


def _rank(given: str | int | None) -> int:
    """Return a process's rank: what it says, else what torchrun or Lightning's launcher says of it."""
    if given is None:
        given = os.environ.get("RANK") or max(os.environ.get(name, "0") for name in ("LOCAL_RANK", "NODE_RANK"))
    try:
        return int(given)
    except (TypeError, ValueError) as error:
        raise BadInputError(f"rank={given!r} is not a rank: ranks are integers from 0") from error


def read_address() -> LinkAddress:
    """Return how this process finds its site.

    Raises:
        ClientError: It was not started by a job.
    """
    text = os.environ.get(ENVIRONMENT)
    if not text:
        raise ClientError(
            "this script was not started by a job: run the job that names it as its script, for example "
            "FedAvgRecipe(..., train_script=__file__).run(), or `trackbus simulator JOB_FOLDER`"
        )
    try:
        return msgspec.json.decode(text, type=LinkAddress)
    except msgspec.MsgspecError as error:
        raise ClientError(f"{ENVIRONMENT} does not say how to reach the site: {error}") from error


def _meet(address: LinkAddress) -> tuple[Link, Welcome]:
    try:
        link = Link(address)
        with suppress(BrokenPipeError, ConnectionResetError):  # refused already: the reason can be read all the same
            link.send(Hello(token=address.token))
        frame = link.receive(WELCOME_SECONDS)
    except (OSError, DecodeError) as error:
        raise ClientError(f"the site {address.site!r} can't be reached: {error}; is its job over?") from error
    message = None if frame is None else frame[0]
    if isinstance(message, Welcome):
        return link, message
    reason = message.reason if isinstance(message, End) else f"its answer was {message!r}"
    raise ClientError(f"the site {address.site!r} does not take this script: {reason}")


def _read_end(link: Link) -> str | None:
    """Return why the job has ended, if the site said so before it closed the link."""
    try:
        frame = link.receive(0)
    except (OSError, DecodeError):
        return None
    return frame[0].reason if frame is not None and isinstance(frame[0], End) else None
