"""Jobs written for NVFLARE give the receivers its options."""

from pathlib import Path

import pytest

from eventbus.errors import ConfigurationError
from receivers import MLflowReceiver, Receiver, TensorBoardReceiver, WandBReceiver
from receivers.mlflow import MLflowConfig
from receivers.wandb import WandBConfig


@pytest.mark.parametrize(
    "receiver",
    [
        TensorBoardReceiver(tb_folder="tb_events", events=["analytix_log_stats"]),
        MLflowReceiver(events=["fed.analytix_log_stats"], buffer_flush_time=1),
        WandBReceiver(wandb_args={"project": "p"}, mode="offline", process_timeout=10.0),
    ],
    ids=lambda receiver: receiver.name,
)
def test_its_options_are_accepted(receiver: Receiver, tmp_path: Path) -> None:
    receiver.config.check(tmp_path)


@pytest.mark.parametrize(
    "receiver",
    [
        WandBReceiver({"project": "p"}, "online"),
        WandBReceiver({"project": "p"}, mode="online"),
        WandBReceiver("online", {"project": "p"}),
        WandBReceiver(wandb_args={"project": "p"}, mode="online"),
    ],
)
def test_wandb_takes_its_arguments_in_either_order(receiver: WandBReceiver) -> None:
    assert isinstance(receiver.config, WandBConfig)
    assert (receiver.config.mode, receiver.config.wandb_args) == ("online", {"project": "p"})


def test_events_that_there_are_not_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="my_event"):
        TensorBoardReceiver(events=["my_event", "analytix_log_stats"])


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (None, "file://{workspace}/mlartifacts"),
        ("artifacts", "file://{workspace}/artifacts"),
        ("/data/runs", "file:///data/runs"),
        ("s3://bucket/runs", "s3://bucket/runs"),
        ("dbfs:/runs", "dbfs:/runs"),
    ],
)
def test_a_relative_artifact_location_is_in_the_workspace(location: str | None, expected: str, tmp_path: Path) -> None:
    found = MLflowConfig(artifact_location=location).artifacts(tmp_path)
    assert found == expected.format(workspace=tmp_path)


@pytest.mark.parametrize("location", [None, "artifacts"])
def test_a_server_is_told_the_artifact_location_as_it_stands(location: str | None, tmp_path: Path) -> None:
    config = MLflowConfig(tracking_uri="http://localhost:5000", artifact_location=location)
    assert config.artifacts(tmp_path) == location
