"""Reads a job's folder, and makes of it what the engine runs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from eventbus.workspace import SERVER, check_name, name_from
from receivers import Receiver
from training.abc import Workflow
from training.errors import JobError
from training.jobs._build import LEFT_OUT, Builder, importing_from
from training.jobs._custom import check_names
from training.jobs._registry import FOREIGN
from training.jobs._script import ScriptRunner
from training.jobs._terms import ALL_SITES, CLIENT_CONFIG, GLOBAL_METRICS, META, SERVER_CONFIG, SYSTEM_METRICS
from training.plan import JobPlan, SitePlan
from writers.system import INTERVAL_SECONDS


class Entry(msgspec.Struct):
    """A component as its file has it: by its path, or by the name of a class of NVFLARE's."""

    path: str = ""
    id: str = ""
    args: dict[str, Any] = {}
    name: str = ""

    def __post_init__(self) -> None:
        if not self.path and self.name:
            self.path = f"{FOREIGN}{self.name}"


class ExecutorEntry(msgspec.Struct):
    """An executor as its file has it."""

    executor: Entry
    tasks: tuple[str, ...] = ("*",)


class AppConfig(msgspec.Struct, kw_only=True):
    """A configuration file, the server's or a site's."""

    format_version: int = 2
    workflows: list[Entry] = []
    executors: list[ExecutorEntry] = []
    components: list[Entry] = []
    task_data_filters: list[dict[str, Any]] = []
    task_result_filters: list[dict[str, Any]] = []


class Meta(msgspec.Struct):
    """What `meta.json` says."""

    name: str
    deploy_map: dict[str, list[str]]
    min_clients: int = 1
    mandatory_clients: list[str] = []


@dataclass(frozen=True, slots=True)
class App:
    """An app's configuration.

    Attributes:
        folder: The app's folder.
        file: Its file, for errors.
        config: What that says.
        params: What it says beside what every configuration has.
    """

    folder: Path
    file: Path
    config: AppConfig
    params: Mapping[str, object]

    @property
    def custom(self) -> Path:
        """The folder of its scripts and modules."""
        return self.folder / "custom"


@dataclass(frozen=True, slots=True)
class LoadedJob:
    """A job's folder, read and looked through; nothing of it was imported yet.

    Attributes:
        folder: The folder.
        meta: What its `meta.json` says.
        server: The server's app.
        sites: The apps of the sites that have one of their own.
        common: The app of all other sites; None where there is none.
        notes: What the job says that has no effect here: it grows with `plan`.
    """

    folder: Path
    meta: Meta
    server: App
    sites: Mapping[str, App]
    common: App | None
    notes: list[str] = field(default_factory=list[str])

    @property
    def name(self) -> str:
        """Name of the job."""
        return name_from(self.meta.name)

    def importing(self) -> AbstractContextManager[None]:
        """Let the job's modules in `custom/` be imported within the block: `plan` and the run need it."""
        return importing_from([app / "custom" for app in self.apps])

    @property
    def apps(self) -> Sequence[Path]:
        """The folders of its apps."""
        apps = (self.server, *filter(None, [self.common]), *self.sites.values())
        return list(dict.fromkeys(app.folder for app in apps))

    def plan(
        self, sites: Sequence[str] = (), *, seed: int = 0, run: str | None = None, trust_custom: bool = False
    ) -> JobPlan:
        """Make what the engine runs.

        Args:
            sites: Names of the sites; by default those that the job names.
            seed: Everything that trackbus draws depends on it alone.
            run: Id of the run.
            trust_custom: Whether the job's own classes in `custom/` may be imported: for jobs of one's own.

        Raises:
            JobError: The job can't be run as it is written, or not at these sites.
        """
        names = self._site_names(sites)
        builder = Builder(self.server.custom, trust_custom)
        workflows = [
            self._workflow(builder, number, entry) for number, entry in enumerate(self.server.config.workflows)
        ]
        components = _components(builder, self.server)
        self._note(builder)
        plans = [self._site(name, trust_custom=trust_custom) for name in names]
        return JobPlan(
            name=self.name,
            workflows=workflows,
            components={key: one for key, one in components.items() if not isinstance(one, Receiver)},
            sites=plans,
            app_folder=self.server.custom,
            receivers=tuple(one for one in components.values() if isinstance(one, Receiver)),
            min_sites=self.meta.min_clients,
            seed=seed,
            run=run,
            global_metrics=self.server.params.get(GLOBAL_METRICS) is True,
            system_metrics=_interval(self.server.params.get(SYSTEM_METRICS, False), self.server.file),
        )

    def _site_names(self, sites: Sequence[str]) -> Sequence[str]:
        names = tuple(check_name("site", name) for name in sites) or tuple(self.sites if self.common is None else ())
        if not names:
            raise JobError(f"{self.folder}: the job is for any sites: say how many, or which")
        if SERVER in names or len(set(names)) < len(names):
            raise JobError(f"sites {', '.join(names)}: each needs a name of its own, and none is called {SERVER!r}")
        if len(names) < self.meta.min_clients:
            raise JobError(
                f"{self.folder / META}: min_clients is {self.meta.min_clients}, and there are {len(names)} sites"
            )
        if missing := sorted(set(self.meta.mandatory_clients) - set(names)):
            raise JobError(f"{self.folder / META}: {', '.join(missing)} must take part: see mandatory_clients")
        self.notes.extend(f"{self.folder / META}: {name} doesn't take part" for name in self.sites if name not in names)
        return names

    def _note(self, builder: Builder) -> None:
        self.notes.extend(note for note in dict.fromkeys(builder.notes) if note not in self.notes)

    def _workflow(self, builder: Builder, number: int, entry: Entry) -> Workflow:
        place = _place(self.server, "workflows", number, entry)
        made = builder.build(entry.path, entry.args, place)
        if not isinstance(made, Workflow):
            raise JobError(f"{place}: {entry.path} is no workflow")
        return made

    def _site(self, name: str, *, trust_custom: bool) -> SitePlan:
        app = self.sites.get(name, self.common)
        if app is None:
            raise JobError(
                f"{self.folder / META}: deploy_map has no app for {name}; it has some for {', '.join(self.sites)}"
            )
        builder = Builder(app.custom, trust_custom)
        runner, tasks = _runner(builder, app)
        script = runner.plan(app.custom, tasks)
        if not script.script.resolve().is_relative_to(app.custom.resolve()):
            raise JobError(f"{app.file}: the script {runner.script!r} leads out of {app.custom}: put it there")
        if not script.script.is_file():
            raise JobError(f"{app.file}: the script {runner.script!r} is not in {app.custom}")
        if _imports_nvflare(script.script):
            builder.notes.append(
                f"{script.script} imports nvflare: `trackbus migrate --write {app.custom}` moves it over"
            )
        components = _components(builder, app)
        for key, one in components.items():
            if not isinstance(one, Receiver):
                raise JobError(f"{app.file}: {key!r} is a {type(one).__name__}: at sites only receivers can run")
        self._note(builder)
        receivers = tuple(one for one in components.values() if isinstance(one, Receiver))
        return SitePlan(
            name=name,
            script=script,
            search_path=tuple(dict.fromkeys((script.script.parent, app.custom.absolute()))),
            receivers=receivers,
            config=app.params,
        )


def load_job(folder: str | Path) -> LoadedJob:
    """Read a job's folder.

    Raises:
        JobError: It is none, or one of its files can't be read or lacks a part.
    """
    job = Path(folder).absolute()
    if not job.is_dir():
        raise JobError(f"{job} is not a folder: name the one that holds the job's {META}")
    meta = _meta(job / META)
    for app in meta.deploy_map:
        if not (job / app).resolve().is_relative_to(job.resolve()) or Path(app) == Path():
            raise JobError(f"{job / META}: deploy_map: {app!r} is no folder in the job's")
    apps = {target: job / app for app, targets in meta.deploy_map.items() for target in targets}
    if SERVER not in apps and ALL_SITES not in apps:
        raise JobError(f"{job / META}: deploy_map has no app for the server")
    server = _app(apps.get(SERVER, apps.get(ALL_SITES, job)), SERVER_CONFIG)
    if not server.config.workflows:
        raise JobError(f"{server.file}: there is no workflow: the server would have nothing to do")
    sites = {name: _app(app, CLIENT_CONFIG) for name, app in apps.items() if name not in (SERVER, ALL_SITES)}
    common = _app(apps[ALL_SITES], CLIENT_CONFIG) if ALL_SITES in apps else None
    if not sites and common is None:
        raise JobError(f"{job / META}: deploy_map has no app for any site")
    return LoadedJob(job, meta, server, sites, common)


def _meta(file: Path) -> Meta:
    return _convert({key: value for key, value in _read(file).items() if value is not None}, Meta, file)


def _app(folder: Path, name: str) -> App:
    check_names(folder / "custom")
    file = folder / "config" / name
    content = _read(file)
    config = _convert(content, AppConfig, file)
    if filters := (*config.task_data_filters, *config.task_result_filters):
        raise JobError(f"{file}: filters of tasks and results are not supported, and there are {len(filters)}")
    common = {*AppConfig.__struct_fields__}
    return App(folder, file, config, {key: value for key, value in content.items() if key not in common})


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise JobError(f"{file} can't be read: {error.strerror or error}") from error
    except ValueError as error:
        raise JobError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise JobError(f"{file}: an object is expected, not {type(content).__name__}")
    return content  # pyright: ignore[reportUnknownVariableType] - JSON


def _convert(content: dict[str, Any], kind: Any, file: Path) -> Any:
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise JobError(f"{file}: {error}") from error


def _components(builder: Builder, app: App) -> dict[str, object]:
    """Make an app's components by id; receivers get names that differ."""
    made: dict[str, object] = {}
    names: set[str] = set()
    for number, entry in enumerate(app.config.components):
        place = _place(app, "components", number, entry)
        one = builder.build(entry.path, entry.args, place)
        if isinstance(one, Receiver) and one.name in names and "name" not in entry.args:
            one = builder.build(entry.path, entry.args, place, name=name_from(entry.id or f"{one.name}-{number}"))
        if isinstance(one, Receiver):
            if one.name in names:
                raise JobError(f"{place}: there are two receivers named {one.name!r}; give one another name")
            names.add(one.name)
        key = entry.id or f"component-{number}"
        if key in made:
            raise JobError(f"{place}: there are two components with the id {key!r}; give one another id")
        if one is not LEFT_OUT:
            made[key] = one
    return made


def _runner(builder: Builder, app: App) -> tuple[ScriptRunner, Sequence[str]]:
    entries = app.config.executors
    if len(entries) != 1:
        raise JobError(f"{app.file}: a site runs one executor, a script; there are {len(entries)}")
    place = f"{app.file}: executors[0]"
    entry = entries[0].executor
    made = builder.build(entry.path, {**_launched(app, entry), **entry.args}, place)
    if not isinstance(made, ScriptRunner):
        raise JobError(f"{place}: {entry.path} is no executor")
    return made, entries[0].tasks


def _launched(app: App, executor: Entry) -> dict[str, Any]:
    """Return what the component says that starts the script, as jobs of NVFLARE's older versions have one."""
    launcher = executor.args.get("launcher_id")
    for one in app.config.components:
        if launcher and one.id == launcher:
            once = {"launch_once": one.args["launch_once"]} if "launch_once" in one.args else {}
            return {"execution_mode": "external_process", "command": one.args.get("script", ""), **once}
    return {}


def _imports_nvflare(script: Path) -> bool:
    return re.search(rb"^\s*(import|from)\s+nvflare\b", script.read_bytes(), re.MULTILINE) is not None


def _place(app: App, section: str, number: int, entry: Entry) -> str:
    return f"{app.file}: {section}[{number}]" + (f" ({entry.id})" if entry.id else "")


def _interval(given: object, file: Path) -> float:
    """Return the seconds between two samples of a machine; 0: there are none."""
    if isinstance(given, bool):
        return INTERVAL_SECONDS if given else 0.0
    if isinstance(given, int | float) and 0 <= given < math.inf:
        return float(given)
    raise JobError(f"{file}: {SYSTEM_METRICS} is {given!r}: write true, or seconds between two samples")
