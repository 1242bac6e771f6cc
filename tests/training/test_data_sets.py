"""CIFAR-10 and Fashion-MNIST, on small files in their own formats that are made here."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fashion_files import make_fashion, write_idx
from torchvision.datasets import CIFAR10

from training.data import DatasetDamagedError, DatasetMissingError, _fetch, fashion_mnist, load_dataset, load_share

EACH = 20  # samples in a file of CIFAR-10


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every download fail at once, also where there is a network: nobody listens at port 9."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


# ---------------------------------------------------------------------------------------------------- CIFAR-10
@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make CIFAR-10's files, and have torchvision's own loader expect their checksums."""
    random = np.random.default_rng(0)
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()

    def write(name: str, content: object) -> str:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    def batch(name: str) -> list[str]:
        pixels = random.integers(0, 256, (EACH, 3072), dtype=np.uint8)
        labels = [number % 10 for number in range(EACH)]
        return [name, write(name, {"data": pixels, "labels": labels, "batch_label": name, "filenames": []})]

    monkeypatch.setattr(CIFAR10, "train_list", [batch(f"data_batch_{number}") for number in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [batch("test_batch")])
    names = write("batches.meta", {"label_names": [f"class {number}" for number in range(10)]})
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": names})
    return tmp_path


def test_cifar10_is_what_torchvision_shows(cifar: Path) -> None:
    found = load_dataset("cifar10", 0, cifar)
    assert (len(found.train), len(found.test), found.classes) == (5 * EACH, EACH, 10)
    assert (found.train.images.dtype, found.train.images.shape[1:]) == (torch.float32, (3, 32, 32))
    for samples, shown in ((found.train, CIFAR10(cifar)), (found.test, CIFAR10(cifar, train=False))):
        for position in (0, EACH - 1):
            picture, label = shown[position]
            expected = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 127.5 - 1
            torch.testing.assert_close(samples.images[position], expected, rtol=0, atol=1e-6)
            assert samples.labels[position] == label


def test_the_sites_share_cifar10(cifar: Path) -> None:
    whole = load_dataset("cifar10", 0, cifar)
    shares = [load_share("cifar10", site, 5, partition="shards:2", root=cifar) for site in range(5)]
    assert [len(set(share.train.labels.tolist())) for share in shares] == [2] * 5
    together = torch.cat([share.train.images for share in shares])
    assert together.sum().item() == pytest.approx(whole.train.images.sum().item(), rel=1e-4)
    assert all(torch.equal(share.test.images, whole.test.images) for share in shares)


def test_damaged_cifar10_is_not_trained_on(cifar: Path) -> None:
    batch = cifar / CIFAR10.base_folder / "data_batch_3"
    batch.write_bytes(batch.read_bytes()[:-1] + b"!")
    with pytest.raises(DatasetMissingError, match=r"CIFAR-10, whole and undamaged, is not in .*put the folder"):
        load_dataset("cifar10", 0, cifar)


# ----------------------------------------------------------------------------------------------- Fashion-MNIST
@pytest.fixture
def debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "debian"
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", folder)
    return folder


@pytest.mark.usefixtures("debian")
@pytest.mark.parametrize("folder", ["FashionMNIST/raw", "."])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_fashion_mnist_is_read_packed_or_not(tmp_path: Path, folder: str, suffix: str) -> None:
    make_fashion(tmp_path / "data" / folder, suffix)
    found = load_dataset("fashion-mnist", 0, tmp_path / "data")
    assert (len(found.train), len(found.test), found.classes) == (40, 10, 10)
    assert found.train.labels[:11].tolist() == [*range(10), 0]
    image = found.train.images[0]
    assert (image.dtype, image.shape) == (torch.float32, (3, 32, 32))
    assert (image[:, 0, 0].tolist(), image[:, 31, 31].tolist()) == ([-1.0] * 3, [1.0] * 3)


def test_what_torchvision_left_is_what_torchvision_reads(debian: Path, tmp_path: Path) -> None:
    from torchvision.datasets import FashionMNIST

    make_fashion(tmp_path / "FashionMNIST" / "raw", "")
    theirs = FashionMNIST(tmp_path, train=False)
    assert load_dataset("fashion-mnist", 0, tmp_path).test.labels.tolist() == theirs.targets.tolist()


def test_debians_files_are_found_where_there_are_no_others(debian: Path, tmp_path: Path) -> None:
    make_fashion(debian, ".gz", bright=51)
    found = load_dataset("fashion-mnist", 0, tmp_path / "nothing")
    assert found.test.images.max().item() == pytest.approx(-0.6)
    make_fashion(tmp_path / "own", "")
    assert load_dataset("fashion-mnist", 0, tmp_path / "own").test.images.max().item() == 1.0


@pytest.mark.usefixtures("debian")
def test_without_files_and_network_it_is_said_what_to_do(tmp_path: Path) -> None:
    for name, words in (
        ("fashion-mnist", "Debian's package dataset-fashion-mnist"),
        ("cifar10", "cifar-10-batches-py"),
    ):
        with pytest.raises(DatasetMissingError, match="can't be downloaded") as caught:
            load_dataset(name, 0, tmp_path / "data")  # pyright: ignore[reportArgumentType] - a name of the table
        assert words in str(caught.value)
        assert "--data-root" in str(caught.value)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _page(path: Path) -> None:
    path.write_bytes(b"<html>404</html>")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _other_labels(path: Path) -> None:
    write_idx(path, np.full(40, 10))


def _fewer_labels(path: Path) -> None:
    write_idx(path, np.zeros(39))


@pytest.mark.usefixtures("debian")
@pytest.mark.parametrize("damage", [_cut, _page, _empty, _other_labels, _fewer_labels])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_damaged_file_is_named(damage: Callable[[Path], None], suffix: str, tmp_path: Path) -> None:
    make_fashion(tmp_path, suffix)
    path = tmp_path / f"train-labels-idx1-ubyte{suffix}"
    damage(path)
    with pytest.raises(DatasetDamagedError, match=r"train-labels-idx1-ubyte.* is damaged"):
        load_dataset("fashion-mnist", 0, tmp_path)


# ------------------------------------------------------------------------------------------------------- both
HOLDER = """
import fcntl, sys
with open(sys.argv[1], "wb") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_download_waits_for_that_of_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fetch, "DOWNLOAD_TIMEOUT", 0.3)
    downloads: list[str] = []

    def fetch() -> None:
        _fetch.fetch(lambda: downloads.append("once"), tmp_path, "it", "wait")

    holder = [sys.executable, "-c", HOLDER, str(tmp_path / ".download.lock")]
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(DatasetMissingError, match="another process has been downloading for 0 s"):
            fetch()
        process.communicate()
    assert downloads == []
    fetch()
    assert downloads == ["once"]
