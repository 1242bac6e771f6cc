"""The server's model files: the global model, the best one, and what the job begins with."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from training._files import set_aside
from training.abc import BestModelFound, ModelLocator, ModelPersistor, RoundStarted
from training.errors import JobError
from training.fl_model import FLModel, ParamsType

if TYPE_CHECKING:
    from training.abc import Server, ServerEvent
    from training.model import State

GLOBAL_MODEL = "FL_global_model.pt"
BEST_GLOBAL_MODEL = "best_FL_global_model.pt"
"""NVFLARE's names: models go by them in results; their files end in `.safetensors`."""

FOLDER = "models"
"""Below the run's folder."""

_OTHER_SUFFIXES = {".pt", ".pth", ".ckpt", ".bin"}

_logger = logging.getLogger("trackbus.training")


@dataclass(eq=False, repr=False)
class PTFileModelPersistor(ModelPersistor):
    """Keeps PyTorch models as safetensors, each complete or absent; arguments are NVFLARE's.

    The global model is kept after each round, the best one when the model selector finds it. Both files tell in their
    metadata of which round they are; the best one also its `metric`, `mode` and `value`. When a training begins in the
    folder of an earlier one, the earlier one's files are set aside: `.earlier` is put behind their names.

    Args:
        exclude_vars: Regular expression; variables in whose name it is found are not sent to sites, but are kept with
            the models as they were in the beginning.
        model: The first model: a `torch.nn.Module`, the id of a component that is one, `{"path": "module.Class",
            "args": {...}}`, which is made with torch's generator at the run's seed, or tensors by name.
        global_model_file_name: Name of the global model; its file has the suffix `.safetensors` whatever it says.
        best_global_model_file_name: Name of the best one; the same.
        source_ckpt_file_full_name: File of the first model's weights: `.safetensors`, or what `torch.save` made of a
            state dict, alone or under `model`, `state_dict` or `model_state_dict`. A relative path is looked for in the
            app's folder and its `custom`. Where `model` is given too, it must fit it.
        filter_id: Has no effect: there are no filters, and models are kept as they are.
        load_weights_only: True: what is read can't run code. Nothing else is supported.
        allow_numpy_conversion: Taken since exported jobs have it; models are tensors, and each script says what it
            wants to get.
        load_device: Has no effect: the server works on the CPU.

    Raises:
        JobError: An argument is none that can work.
    """

    exclude_vars: str | None = None
    model: object = None
    global_model_file_name: str = GLOBAL_MODEL
    best_global_model_file_name: str = BEST_GLOBAL_MODEL
    source_ckpt_file_full_name: str | None = None
    filter_id: str | None = None
    load_weights_only: bool = True
    allow_numpy_conversion: bool = True
    load_device: str | None = None

    def __post_init__(self) -> None:
        _check_name("global_model_file_name", self.global_model_file_name)
        _check_name("best_global_model_file_name", self.best_global_model_file_name)
        self._excluded = compile_pattern("exclude_vars", self.exclude_vars)
        self._kept: State = {}
        self._has_begun = False
        if not self.load_weights_only:
            raise JobError("load_weights_only=False would run code from a file: save the weights as a state dict")
        if self.filter_id:
            _logger.info("filter_id=%r has no effect: models are kept as they are", self.filter_id)

    def load_model(self, server: Server) -> FLModel:
        """Return the first global model.

        Raises:
            JobError: There is none, it can't be read, or it is not the model that it should be.
        """
        state = self._first_state(server)
        if not state:
            raise JobError("the first model has no weights: give the persistor a model or a checkpoint that has some")
        self._say_where(server)
        self._kept = {name: tensor for name, tensor in state.items() if self._is_excluded(name)}
        return self._to_model(state)

    def save_model(self, model: FLModel, server: Server) -> None:
        """Keep the global model of a round; blocks until it is synced.

        Raises:
            OSError: It can't be written; the one before is still there.
        """
        self._save(self.global_model_file_name, model, {"round": str(model.current_round)}, server)

    def handle(self, event: ServerEvent, server: Server) -> ServerEvent | None:
        """Keep the best model when one is found; set the models of an earlier run aside when a training begins."""
        if isinstance(event, RoundStarted) and not self._has_begun:
            self._has_begun = True
            self._set_earlier_aside(server)
        elif isinstance(event, BestModelFound):
            told = {"round": event.round, "metric": event.metric, "mode": event.mode, "value": event.value}
            metadata = {key: str(value) for key, value in told.items()}
            self._save(self.best_global_model_file_name, event.model, metadata, server)

    def get_model_inventory(self, server: Server) -> dict[str, Path]:
        """Return the files of the models there are now, by name: the global model and the best one.

        Where nothing has been trained, it is the checkpoint that the job was given.
        """
        names = (self.global_model_file_name, self.best_global_model_file_name)
        files = {name: file for name in names if (file := model_file(server.folder, name)).is_file()}
        if files or not self.source_ckpt_file_full_name:
            return files
        source = self._source(self.source_ckpt_file_full_name, server)
        return {source.name: source} if source.is_file() else {}

    def get_model(self, model_file: str, server: Server) -> FLModel:
        """Return a model of the inventory, without the excluded variables.

        Raises:
            JobError: There is none of that name, or it can't be read.
        """
        from training.components._models import read_checkpoint

        inventory = self.get_model_inventory(server)
        if model_file not in inventory:
            raise JobError(f"there is no model {model_file!r}; there are: {', '.join(inventory) or 'none'}")
        return self._to_model(read_checkpoint(inventory[model_file]))

    def _first_state(self, server: Server) -> State:
        from training.components._models import make_state, read_checkpoint
        from training.model import explain_mismatch

        made = None if self.model is None else make_state(self.model, server.seed, server.components)
        if not self.source_ckpt_file_full_name:
            return made or {}
        source = self._source(self.source_ckpt_file_full_name, server)
        state = read_checkpoint(source)
        if made is not None and (problem := explain_mismatch(made, state)):
            raise JobError(f"the checkpoint {source} is not of this model: {problem}")
        return state if made is None else {name: state[name] for name in made}

    def _set_earlier_aside(self, server: Server) -> None:
        # Not before: a job that only evaluates finds the models that an earlier one has trained.
        source = self._source(self.source_ckpt_file_full_name or "", server)
        for name in (self.global_model_file_name, self.best_global_model_file_name):
            file = model_file(server.folder, name)
            if file.resolve() != source.resolve():  # it is what this training began with, and begins with next time
                set_aside(file)

    def _source(self, name: str, server: Server) -> Path:
        folders = (server.app_folder, server.app_folder / "custom")
        candidates = [folder / name for folder in folders]  # an absolute path stays what it is
        return next((path for path in candidates if path.is_file()), candidates[0])

    def _save(self, name: str, model: FLModel, metadata: dict[str, str], server: Server) -> None:
        from training.checkpoint import save_state_file

        save_state_file(model_file(server.folder, name), {**self._kept, **(model.params or {})}, metadata)

    def _is_excluded(self, name: str) -> bool:
        return self._excluded is not None and self._excluded.search(name) is not None

    def _to_model(self, state: State) -> FLModel:
        params = {name: tensor for name, tensor in state.items() if not self._is_excluded(name)}
        return FLModel(params_type=ParamsType.FULL, params=params)

    def _say_where(self, server: Server) -> None:
        file = model_file(server.folder, self.global_model_file_name)
        if file.name != self.global_model_file_name:
            _logger.info("the global model %s is kept as safetensors: %s", self.global_model_file_name, file)


class PTFileModelLocator(ModelLocator):
    """Finds the models of a `PTFileModelPersistor` for cross-site evaluation.

    Args:
        pt_persistor_id: Id of that component.
    """

    def __init__(self, pt_persistor_id: str) -> None:
        self.pt_persistor_id = pt_persistor_id

    def get_model_names(self, server: Server) -> list[str]:
        """Return the names of the persistor's models that there are now.

        Raises:
            JobError: There is no such persistor.
        """
        return list(self._persistor(server).get_model_inventory(server))

    def locate_model(self, model_name: str, server: Server) -> FLModel:
        """Return a model by its name.

        Raises:
            JobError: There is none of that name, or it can't be read.
        """
        return self._persistor(server).get_model(model_name, server)

    def _persistor(self, server: Server) -> PTFileModelPersistor:
        return server.component(self.pt_persistor_id, PTFileModelPersistor)


def model_file(folder: Path, name: str) -> Path:
    """Return where the model of a name is kept in a run's folder."""
    path = Path(name)
    stem = path.stem if path.suffix in {*_OTHER_SUFFIXES, ".safetensors"} else name
    return folder / FOLDER / f"{stem}.safetensors"


def compile_pattern(name: str, pattern: str | None) -> re.Pattern[str] | None:
    """Return a regular expression; None for none.

    Raises:
        JobError: It is none that can be read; the message names the argument.
    """
    try:
        return re.compile(pattern) if pattern else None
    except re.error as error:
        raise JobError(f"{name}={pattern!r} is not a regular expression: {error}") from error


def _check_name(argument: str, name: str) -> None:
    if not name or Path(name).name != name:
        raise JobError(f"{argument}={name!r} is not the name of a file: leave out the folders")
