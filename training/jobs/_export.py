"""Writes a job's folder: `meta.json`, and for every app its configuration and its files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from eventbus.workspace import SERVER
from training.errors import JobError
from training.jobs._custom import CustomFolder, check_names, relative
from training.jobs._describe import Description, describe, plain
from training.jobs._draft import AppDraft
from training.jobs._script import ScriptRunner
from training.jobs._terms import ALL_SITES, CLIENT_CONFIG, FORMAT_VERSION, META, SERVER_CONFIG

Drafts = Mapping[str, AppDraft]


def write_job(folder: Path, meta: Mapping[str, object], drafts: Drafts) -> None:
    """Write a job's folder in place of the one that is there: it is complete, or as it was.

    Args:
        folder: The job's folder; its name need not be the job's.
        meta: What `meta.json` says, but for who gets which app.
        drafts: What each target gets.

    Raises:
        JobError: The job lacks a part, or one can't be written; or something else is in the folder's place.
    """
    apps = _apps(drafts)
    with replacing(folder) as scratch:
        for name, targets in apps.items():
            _write_app(scratch / name, targets)
        _write_json(scratch / META, _meta(meta, apps))


@contextmanager
def replacing(folder: Path) -> Generator[Path]:
    """Give a new folder to be filled, which takes the place of a job's folder once the block has ended well.

    Raises:
        JobError: There is something in its place that is no job.
    """
    folder = folder.resolve()  # where a link leads, so that the link stays
    _check_place(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield scratch
        scratch.chmod(0o755)  # mkdtemp's own is for nobody else
        _take_place(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _take_place(new: Path, folder: Path) -> None:
    """Put a folder in the place of another, which is deleted only when the new one is there."""
    before = new.with_name(f"{new.name}.before")
    if folder.exists():
        folder.rename(before)
    try:
        new.rename(folder)
    finally:
        if before.exists() and not folder.exists():
            before.rename(folder)
    shutil.rmtree(before, ignore_errors=True)


def _check_place(folder: Path) -> None:
    if folder.exists() and not (folder / META).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise JobError(f"{folder} is there already, and is no job: it has no {META}; name another folder")


def _apps(drafts: Drafts) -> dict[str, dict[str, AppDraft]]:
    """Say which app holds what: one for server and sites where all sites share theirs, else one for each target."""
    if SERVER not in drafts:
        raise JobError("the server has nothing to do: give it a workflow with to_server(), FedAvg say")
    if len(drafts) == 1:
        raise JobError("the sites have nothing to run: give them a script with to_clients(ScriptRunner(...))")
    common = drafts.get(ALL_SITES, AppDraft())
    sites = {name: draft.joined(common) for name, draft in drafts.items() if name not in (SERVER, ALL_SITES)}
    own = {f"app_{name}": {name: draft} for name, draft in sites.items()}
    if sites and not common.executors:
        return {f"app_{SERVER}": {SERVER: drafts[SERVER]}, **own}
    return {"app": {SERVER: drafts[SERVER], ALL_SITES: common}, **own}


def _meta(meta: Mapping[str, object], apps: Mapping[str, Mapping[str, AppDraft]]) -> Description:
    deploy = {app: [ALL_SITES] if ALL_SITES in targets else list(targets) for app, targets in apps.items()}
    first = {"name": meta["name"], "resource_spec": {}, "min_clients": meta["min_clients"], "deploy_map": deploy}
    return {**first, **meta}


def _write_app(folder: Path, targets: Mapping[str, AppDraft]) -> None:
    custom = CustomFolder(folder / "custom")
    for target, draft in targets.items():
        config = _server_config(draft, custom) if target == SERVER else _client_config(target, draft, custom)
        name = SERVER_CONFIG if target == SERVER else CLIENT_CONFIG
        _write_json(folder / "config" / name, {**config, **plain(draft.params, f"{target}: params", custom)})
        for file, subfolder in draft.files:
            custom.add(file, subfolder)
    check_names(custom.folder)


def _server_config(draft: AppDraft, custom: CustomFolder) -> Description:
    workflows = [_entry(key, workflow, SERVER, custom) for key, workflow in draft.workflows.items()]
    if not workflows:
        raise JobError("the server has no workflow: give it one with to_server(), FedAvg say")
    return {
        "format_version": FORMAT_VERSION,
        "workflows": workflows,
        **_common(draft, SERVER, custom),
    }


def _client_config(target: str, draft: AppDraft, custom: CustomFolder) -> Description:
    if not draft.executors:
        raise JobError(f"{target} has no script: give it one with to(ScriptRunner(...), {target!r})")
    executors = [_executor(tasks, runner, target, custom) for tasks, runner in draft.executors]
    return {
        "format_version": FORMAT_VERSION,
        "executors": executors,
        **_common(draft, target, custom),
    }


def _common(draft: AppDraft, target: str, custom: CustomFolder) -> Description:
    return {
        "components": [_entry(key, one, target, custom) for key, one in draft.components.items()],
        "task_data_filters": [],
        "task_result_filters": [],
    }


def _entry(component_id: str, thing: object, target: str, custom: CustomFolder) -> Description:
    return {"id": component_id, **describe(thing, f"{target}: {component_id}", custom)}


def _executor(tasks: tuple[str, ...], runner: ScriptRunner, target: str, custom: CustomFolder) -> Description:
    description = describe(runner, f"{target}: {type(runner).__name__}", custom)
    custom.add(runner.script)
    description["args"]["script"] = relative(runner.script).as_posix()
    return {"tasks": list(tasks), "executor": description}


def _write_json(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        text = json.dumps(content, indent=4, allow_nan=False)
    except ValueError as error:
        raise JobError(f"{file.name}: a number is NaN or infinite, and JSON has none of them") from error
    file.write_text(f"{text}\n", encoding="utf-8")
