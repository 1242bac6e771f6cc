"""Starts the runs of a W&B look-alike, and knows the latest one."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast
from weakref import WeakKeyDictionary

from eventbus.errors import BadInputError
from writers._keys import check_key, shown
from writers._mode import bus_for, nowhere
from writers._runs import runs_of
from writers._wandb_artifact import safe_name
from writers._wandb_config import mapping
from writers._writer import run_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventbus._bus import Bus
    from writers.wandb import WandBWriter

MODES = (None, "online", "offline", "shared", "disabled")
RESUMES = (None, True, False, "allow", "never", "must", "auto")
REINITS = (None, True, False, "default", "return_previous", "finish_previous", "create_new")

METHODS = frozenset(
    {
        "alert",
        "define_metric",
        "finish",
        "link_model",
        "log",
        "log_artifact",
        "log_code",
        "log_model",
        "mark_preempting",
        "restore",
        "save",
        "unwatch",
        "use_artifact",
        "use_model",
        "watch",
    }
)
"""Functions of W&B's module that act on the latest run."""

_ADVICE = {
    "resume_from": "a run goes on under its id: init(id=..., resume='allow')",
    "fork_from": "start a run of its own: init(id=...)",
    "tensorboard": "log with writers.SummaryWriter beside this run",
    "monitor_gym": "log the videos: run.log({'video': Video(path)})",
}


class Sessions:
    """The runs that `init` started in this process.

    Args:
        make: The class of a run.
    """

    def __init__(self, make: type[WandBWriter]) -> None:
        self._make = make
        self._latest: WandBWriter | None = None
        self._begun: WeakKeyDictionary[Bus, int] = WeakKeyDictionary()

    def init(
        self,
        entity: str | None = None,
        project: str | None = None,
        dir: Any = None,
        id: str | None = None,
        name: str | None = None,
        notes: str | None = None,
        tags: Sequence[str] | None = None,
        config: Any = None,
        config_exclude_keys: list[str] | None = None,
        config_include_keys: list[str] | None = None,
        allow_val_change: bool | None = None,
        group: str | None = None,
        job_type: str | None = None,
        mode: str | None = None,
        force: bool | None = None,
        reinit: bool | str | None = None,
        resume: bool | str | None = None,
        resume_from: str | None = None,
        fork_from: str | None = None,
        save_code: bool | None = None,
        tensorboard: bool | None = None,
        sync_tensorboard: bool | None = None,
        monitor_gym: bool | None = None,
        settings: Any = None,
        anonymous: Any = None,
        *,
        bus: Bus | None = None,
    ) -> WandBWriter:
        """Start a run on the current bus, and make it the one that the module's functions act on.

        Without an id, the first run of a bus is the bus's own, to which its other writers log too; one that is started
        after it ended is a run of its own. In a notebook, a run that has not ended is finished, so that a cell may be
        run again. Elsewhere it is returned as it is, unless `reinit` or another id says otherwise: what this call says
        of the run is left out and counted then, as W&B does.

        Args:
            entity: Recorded as a tag: which project takes the run is the receivers' business.
            project: Recorded as a tag, as `entity`.
            dir: Accepted: files lie in the workspace of the bus.
            id: Id of the run; the same one goes on with it.
            name: How people call it.
            notes: What people write of it; recorded as a tag.
            tags: Labels.
            config: Its configuration: a mapping, or what `argparse` or absl parsed.
            config_exclude_keys: Keys of it that are left out.
            config_include_keys: Keys of it that are taken, and no others.
            allow_val_change: Accepted: a value may always change.
            group: Recorded as a tag: the group is the job of the bus.
            job_type: Recorded as a tag.
            mode: `disabled`: nothing is recorded. The others are accepted: it is the receiver that is online or not.
            force: Accepted: nobody logs in here.
            reinit: What becomes of a run that has not ended: `return_previous`, `finish_previous` or `create_new`; by
                default the first in a script, the second in a notebook.
            resume: Accepted: a run goes on where its id is the same. `must` needs an id.
            resume_from: Refused: no record is taken back.
            fork_from: Refused: no record is taken over.
            save_code: Whether the script itself is logged.
            tensorboard: Refused: nothing else is listened to.
            sync_tensorboard: Refused, as `tensorboard`.
            monitor_gym: Refused, as `tensorboard`.
            settings: Accepted: settings of the SDK have no meaning here.
            anonymous: Accepted: nobody logs in here.
            bus: Where to publish; by default the current bus.

        Raises:
            NoBusError: No bus is given and none is open.
            AmbiguousBusError: No bus is given and several are open.
            BadInputError: An option is refused, or is not known.
            ConfigurationError: The id is not legal.
        """
        _refuse(resume_from, fork_from, tensorboard or sync_tensorboard, monitor_gym)
        _check(mode, reinit, resume, id)
        chosen = _chosen(config, config_include_keys, config_exclude_keys)
        home = nowhere() if mode == "disabled" else bus_for(bus)
        facts = {"entity": entity, "project": project, "notes": notes, "group": group, "job_type": job_type}
        labels = [tags] if isinstance(tags, str) else tags or ()
        if (previous := self._previous(id, home, reinit)) is not None:
            return _as_it_is(previous, {"name": name, "tags": labels, "config": chosen, **facts})
        run = _told(self._run(id, name, home, reinit), labels, chosen, facts)
        return _with_script(run) if save_code else run

    def attribute(self, name: str) -> Any:
        """Return what W&B's module has under a name, of the latest run.

        Raises:
            AttributeError: There is no such name, or no run.
        """
        run = None if self._latest is None or self._latest.is_finished else self._latest
        if name == "run":
            return run
        if name == "finish" and run is None:
            return _nothing_to_finish
        if name in METHODS:
            return _too_early(name) if run is None else getattr(run, name)
        if name not in ("config", "summary"):
            raise AttributeError(f"writers.wandb has no {name!r}; what is not logging is in wandb itself")
        if run is None:
            raise AttributeError(f"call writers.wandb.init() before wandb.{name}")
        return getattr(run, name)

    def _previous(self, id_: str | None, bus: Bus, reinit: bool | str | None) -> WandBWriter | None:
        """Return the latest run, if it has not ended and goes on; where it is not to go on, it is finished here."""
        latest = self._latest
        if latest is None or latest.is_finished or latest.tracking.bus is not bus:
            return None
        if reinit in (True, "finish_previous") or (reinit in (None, "default") and _in_notebook()):
            latest.finish()
            return None
        return latest if reinit != "create_new" and id_ in (None, latest.id) else None

    def _run(self, id_: str | None, name: str | None, bus: Bus, reinit: bool | str | None) -> WandBWriter:
        latest = self._latest
        run_id = run_name(bus, id_ or self._next(bus))
        runs_of(bus).go_on(run_id)
        if name is not None:
            runs_of(bus).start(bus, run_id, bus.scope, title=check_key(name))
        run = _again(latest, bus, run_id) or self._make(bus=bus, run=run_id)
        run.name = name or run.name
        if reinit != "create_new" or latest is None:
            self._latest = run
        return run

    def _next(self, bus: Bus) -> str | None:
        """Return the id of a run that was given none; None for the bus's own."""
        self._begun[bus] = number = self._begun.get(bus, 0) + 1
        return None if number == 1 else f"{run_name(bus, None)}-{number}"


def _refuse(*options: object) -> None:
    """Refuse the options that can't be honoured, given in the order of `_ADVICE`."""
    for (name, advice), value in zip(_ADVICE.items(), options, strict=True):
        if value:
            raise BadInputError(f"init({name}=...) is not supported: {advice}")


def _check(mode: object, reinit: object, resume: object, id: str | None) -> None:
    if resume == "must" and id is None:
        raise BadInputError("resume='must' needs the id of the run: init(id=..., resume='must')")
    if mode not in MODES:
        raise BadInputError(f"mode={shown(mode)} is not known: use one of online, offline, shared, disabled")
    if reinit not in REINITS:
        raise BadInputError(f"reinit={shown(reinit)} is not known: use return_previous, finish_previous or create_new")
    if resume not in RESUMES:
        raise BadInputError(f"resume={shown(resume)} is not known: use allow, never, must or auto")


def _chosen(config: Any, include: Sequence[str] | None, exclude: Sequence[str] | None) -> Mapping[str, Any]:
    if include and exclude:
        raise BadInputError("config_include_keys and config_exclude_keys exclude each other: pass one of them")
    if isinstance(config, str):
        raise BadInputError(f"config={shown(config)} is the name of a file: read it, and pass a dict")
    found: Any = config.flag_values_dict() if hasattr(config, "flag_values_dict") else mapping(config or {})
    if not isinstance(found, Mapping):
        raise BadInputError(f"config is of type {type(config).__name__}: pass a dict")
    given = cast("Mapping[str, Any]", found)
    return {
        key: value for key, value in given.items() if key not in (exclude or ()) and (not include or key in include)
    }


def _told(
    run: WandBWriter, labels: Sequence[str], config: Mapping[str, Any], facts: Mapping[str, str | None]
) -> WandBWriter:
    run.describe(**facts)
    run.add_tags(labels)
    run.config.update(config)
    return run


def _as_it_is(run: WandBWriter, given: Mapping[str, object]) -> WandBWriter:
    """Return a run that goes on, and count what `init` was told of it."""
    unsaid = [name for name, value in given.items() if value and value != getattr(run, name)]
    if unsaid:
        said = ", ".join(f"{name}=..." for name in unsaid)
        advice = f"run {run.id!r} goes on as it is: finish it first, or pass reinit='finish_previous'"
        run.tracking.intake.bad.count("init", BadInputError(f"init({said}), since {advice}"))
    return run


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return any(kind.__name__ == "ZMQInteractiveShell" for kind in type(shell).__mro__)


def _with_script(run: WandBWriter) -> WandBWriter:
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if script is not None:
        run.log_artifact(script, safe_name(f"source-{run.project or run.id}"), "code")
    return run


def _again(latest: WandBWriter | None, bus: Bus, run_id: str) -> WandBWriter | None:
    """Take the latest run up again, if it is this one and has ended; its steps are counted on."""
    if latest is None or not latest.is_finished or latest.tracking.bus is not bus or latest.id != run_id:
        return None
    latest.is_finished = False
    return latest


def _nothing_to_finish(exit_code: int | None = None, quiet: bool | None = None) -> None:
    """Do nothing: W&B's `finish` may be called twice, and before there is a run."""


def _too_early(name: str) -> Callable[..., NoReturn]:
    def call(*args: Any, **kwargs: Any) -> NoReturn:
        raise BadInputError(f"call writers.wandb.init() before wandb.{name}()")

    return call
