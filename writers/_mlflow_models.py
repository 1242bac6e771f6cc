"""Models, saved at the caller by MLflow's own flavors and shipped as files."""

from __future__ import annotations

from importlib import import_module
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

from eventbus import Receipt
from eventbus.abc import RefusedError
from eventbus.artifacts import ModelLogged
from eventbus.errors import BadInputError, MissingExtraError
from writers._artifacts import files_of
from writers._keys import check_key, shown
from writers._mlflow_absent import Absent
from writers._mlflow_payloads import publish

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pydantic import JsonValue

    from eventbus.artifacts import ArtifactFile
    from eventbus.blobs import BlobStore
    from eventbus.tracking import TrackingEvent
    from writers._writer import TrackingWriter

DEFAULT_NAME = "model"
"""What a model is called that nobody named."""

SAVE_OPTIONS = (
    "conda_env",
    "code_paths",
    "pickle_module",
    "signature",
    "input_example",
    "extra_files",
    "pip_requirements",
    "extra_pip_requirements",
    "metadata",
    "export_model",
    "serialization_format",
)
"""What of `log_model`'s arguments goes to `save_model`."""

_CACHE = "__pycache__"  # what saving leaves behind: it loads the model to learn what it requires


class ModelReceipt(Receipt, frozen=True, gc=False):
    """The answer to `log_model`.

    Attributes:
        model_id: What names the model in `log_metric(..., model_id=)`: its name. MLflow's own id is made where the
            receiver writes it.
    """

    model_id: str = ""


def log_model(
    to: TrackingWriter,
    model: Any,
    name: str | None,
    flavor: str,
    save: Mapping[str, Any],
    *,
    registered_model_name: str | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
    model_type: str | None = None,
    step: object = None,
) -> ModelReceipt:
    """Save a model with MLflow, or take a folder that holds one, and log its files.

    Args:
        to: What logs.
        model: The model, or the path of a folder into which MLflow has saved one.
        name: What it is called.
        flavor: Which of MLflow's modules saves it.
        save: What its `save_model` is told.
        registered_model_name: Under which name the receiver registers it.
        params: Its parameters.
        tags: Its labels.
        model_type: What kind it is.
        step: At which step it is as it is.

    Raises:
        BadInputError: It can't be saved or recorded, and bad input raises.
        MissingExtraError: MLflow, or what the flavor needs, is not installed here.
    """
    called = name or DEFAULT_NAME

    def make(store: BlobStore) -> Sequence[TrackingEvent]:
        labels: dict[str, JsonValue] = {key: str(value) for key, value in (tags or {}).items()}
        about: dict[str, JsonValue] = {"model_type": model_type, "tags": labels}
        return [
            ModelLogged(
                key=check_key(called),
                files=_files(store, model, flavor, save),
                flavor=flavor,
                registered_name=registered_model_name or "",
                params={key: str(value) for key, value in (params or {}).items()},
                metadata={key: value for key, value in about.items() if value},
                step=None if step is None else to.intake.step(step),
            )
        ]

    receipt = publish(to, called, make)
    return ModelReceipt(receipt.publisher, receipt.seq, receipt.refused, called)


def _files(store: BlobStore, model: Any, flavor: str, save: Mapping[str, Any]) -> list[ArtifactFile]:
    if isinstance(model, str | PathLike):
        return files_of(store, cast("str | PathLike[str]", model))
    save_model = _saver(flavor)
    with TemporaryDirectory(prefix="trackbus-model-") as folder:
        path = Path(folder, DEFAULT_NAME)
        try:
            save_model(model, path=str(path), **save)
        except OSError as error:
            raise RefusedError(f"the model can't be saved: {error.strerror or error}") from error
        except Exception as error:  # border: what MLflow and the model's own code raise is no class of ours
            raise BadInputError(f"{shown(type(model).__name__)} can't be saved by mlflow.{flavor}: {error}") from error
        return [file for file in files_of(store, path, immutable=True) if _CACHE not in file.path.split("/")]


def _saver(flavor: str) -> Callable[..., object]:
    try:
        return import_module(f"mlflow.{flavor}").save_model
    except ImportError as error:
        raise MissingExtraError(
            f"log_model saves the model here, with mlflow.{flavor}: pip install 'trackbus[mlflow]' and what that "
            f"flavor needs ({error}), or save it elsewhere and pass the folder"
        ) from error
    except AttributeError as error:
        raise BadInputError(f"mlflow.{flavor} is no flavor that can save a model") from error


class Flavor(Absent):
    """One of MLflow's flavors: `writer.pytorch.log_model(...)`.

    Args:
        find: Returns what logs.
        name: Its name in MLflow.
    """

    def __init__(self, find: Callable[[], TrackingWriter], name: str) -> None:
        self._find = find
        self._name = name

    def log_model(  # noqa: PLR0917 - MLflow's own arguments, in its order
        self,
        pytorch_model: Any,
        artifact_path: str | None = None,
        conda_env: Any = None,
        code_paths: Any = None,
        pickle_module: Any = None,
        registered_model_name: str | None = None,
        signature: Any = None,
        input_example: Any = None,
        await_registration_for: int | None = 300,
        extra_files: Any = None,
        pip_requirements: Any = None,
        extra_pip_requirements: Any = None,
        metadata: Any = None,
        name: str | None = None,
        params: dict[str, Any] | None = None,
        tags: dict[str, Any] | None = None,
        model_type: str | None = None,
        step: int = 0,
        model_id: str | None = None,
        export_model: bool = False,
        serialization_format: str | None = None,
        **kwargs: Any,
    ) -> ModelReceipt:
        """Save a model of PyTorch with the real MLflow and log its files; nothing is left in a temporary folder.

        Args:
            pytorch_model: The model, or the path of a folder that holds a saved one.
            artifact_path: Its name, in older scripts.
            conda_env: This and what follows is told to `mlflow.pytorch.save_model`.
            code_paths: As there.
            pickle_module: As there.
            signature: As there.
            input_example: As there.
            extra_files: As there.
            pip_requirements: As there.
            extra_pip_requirements: As there.
            metadata: As there.
            export_model: As there.
            serialization_format: As there.
            **kwargs: As there.
            registered_model_name: Under which name the receiver registers it.
            await_registration_for: Accepted: no call waits.
            name: What it is called; `model` by default.
            params: Its parameters.
            tags: Its labels.
            model_type: What kind it is.
            step: At which step it is as it is.
            model_id: Refused: the receiver makes the model.

        Raises:
            BadInputError: It can't be saved or recorded, and bad input raises.
            MissingExtraError: MLflow or PyTorch is not installed here.
        """
        given = dict(locals())
        save = {option: given[option] for option in SAVE_OPTIONS if given[option] is not None}
        self._find().intake.unsupported("model_id", model_id, "the receiver makes the model; name it with name=")
        return log_model(
            self._find(),
            pytorch_model,
            name or artifact_path,
            self._name,
            {**save, **kwargs},
            registered_model_name=registered_model_name,
            params=params,
            tags=tags,
            model_type=model_type,
            step=step,
        )
