"""What a script may ask of MLflow's module and runs that is not here, and what to do in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

FLAVORS = frozenset(
    {
        *("catboost", "diffusers", "h2o", "johnsnowlabs", "keras", "langchain", "lightgbm", "llama_index", "onnx"),
        *("paddle", "pmdarima", "prophet", "pyfunc", "sentence_transformers", "shap", "sklearn", "spacy", "spark"),
        *("statsmodels", "tensorflow", "transformers", "xgboost"),
    }
)
"""MLflow's modules that save models."""

_RECEIVED = "where runs are kept is said where they are received: MLflowReceiver(tracking_uri=...)"
_STORED = "the tracker's own addresses are known where the run is received: read them with the real mlflow"
_READ = "writers log and read nothing back: ask the real mlflow"

_ADVICE = {
    "set_tracking_uri": _RECEIVED,
    "get_tracking_uri": _RECEIVED,
    "set_registry_uri": _RECEIVED,
    "get_registry_uri": _RECEIVED,
    "is_tracking_uri_set": _RECEIVED,
    "get_artifact_uri": _STORED,
    "artifact_uri": _STORED,
    "data": _READ,
    "inputs": _READ,
    "outputs": _READ,
    "log_state_dict": "torch.save it, and log the file: log_artifact(path, 'state_dict')",
    "register_model": "name it where it is logged: log_model(model, registered_model_name=...)",
    "autolog": "log what it would: log_params, log_metrics and log_model",
    "MlflowClient": "its logging calls are those of .client",
    "enable_system_metrics_logging": "start_run(log_system_metrics=True), or TRACKBUS_SYSTEM_METRICS=1",
    **dict.fromkeys(("search_runs", "search_experiments", "get_experiment_by_name", "get_experiment"), _READ),
}


class Absent:
    """Base of what has some of the names that MLflow's twin has, and says what to do in place of the others."""

    if not TYPE_CHECKING:  # a checker is to know each name that there is

        def __getattr__(self, name: str) -> Any:
            """Say what to do in place of what is not here.

            Raises:
                AttributeError: Always.
            """
            raise AttributeError(f"{type(self).__name__} has no {name!r}: {_advice(name)}")


def _advice(name: str) -> str:
    if name in FLAVORS:
        return f"save and log a model with log_model(model, name, flavor={name!r})"
    return _ADVICE.get(name, "what is not logging is in mlflow itself")
