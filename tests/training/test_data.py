"""The digits as they lie in scikit-learn's wheel, and how they are dealt out."""

import gzip
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from eventbus.errors import ConfigurationError, MissingExtraError
from training import data
from training.data import (
    DatasetDamagedError,
    DataSpec,
    Samples,
    _share,
    digits,
    label_histogram,
    load_dataset,
    partition_iid,
    seeded_generator,
)


def test_digits_are_images_the_network_takes() -> None:
    digits = load_dataset("digits", seed=0)
    assert (len(digits.train), len(digits.test), digits.classes) == (1500, 297, 10)
    images = digits.train.images
    assert images.shape == (1500, 3, 32, 32)
    assert images.dtype is torch.float32
    assert (images.min().item(), images.max().item()) == (-1.0, 1.0)
    assert torch.equal(images[:, 0], images[:, 2])
    assert digits.train.labels.dtype is torch.int64


def test_digits_are_the_real_ones() -> None:
    digits = load_dataset("digits", seed=0)
    everything = torch.cat([digits.train.labels, digits.test.labels])
    # The class counts that scikit-learn documents for this file.
    assert label_histogram(everything, 10) == (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)


def test_the_split_follows_the_seed() -> None:
    first = load_dataset("digits", seed=1).test
    other = load_dataset("digits", seed=2).test
    again = load_dataset("digits", seed=1).test
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.labels, other.labels)


def test_reading_the_digits_imports_no_sklearn() -> None:
    code = """
import sys
from training.data import load_dataset
load_dataset("digits", seed=0)
sys.exit("sklearn" in sys.modules)
"""
    root = Path(data.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, timeout=100, check=False)
    assert done.returncode == 0


def test_an_unknown_data_set_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="unknown data set 'mnist'; known: digits, cifar10, fashion-mnist"):
        load_dataset("mnist", seed=0)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def no_cache() -> None:
    _share._read.cache_clear()


@pytest.mark.usefixtures("no_cache")
def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)  # to Python: not installed
    with pytest.raises(MissingExtraError, match=r'pip install "trackbus\[train\]"'):
        load_dataset("digits", seed=0)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _not_gzip(path: Path) -> None:
    path.write_bytes(b"<html>404</html>")


def _lose_a_column(path: Path) -> None:
    lines = gzip.decompress(path.read_bytes()).splitlines()
    path.write_bytes(gzip.compress(b"\n".join(line.rpartition(b",")[0] for line in lines)))


def _lose_a_cell(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-3]))


@pytest.mark.usefixtures("no_cache")
@pytest.mark.parametrize("damage", [_cut, _not_gzip, _lose_a_column, _lose_a_cell])
def test_a_damaged_file_is_named(
    damage: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = digits._file()
    copy = tmp_path / "sklearn" / "datasets" / "data" / real.name
    copy.parent.mkdir(parents=True)
    (tmp_path / "sklearn" / "__init__.py").touch()
    shutil.copy(real, copy)
    damage(copy)
    monkeypatch.delitem(sys.modules, "sklearn", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DatasetDamagedError, match=r"digits\.csv\.gz is damaged"):
        load_dataset("digits", seed=0)


def test_a_spec_loads_one_sites_share() -> None:
    shares = [DataSpec(site, sites=3, seed=5).load() for site in range(3)]
    whole = load_dataset("digits", seed=5)
    assert [len(share.train) for share in shares] == [500, 500, 500]
    assert all(torch.equal(share.test.labels, whole.test.labels) for share in shares)
    counts = [label_histogram(share.train.labels, share.classes) for share in shares]
    assert tuple(map(sum, zip(*counts, strict=True))) == label_histogram(whole.train.labels, 10)


def test_a_share_keeps_images_and_labels_in_step() -> None:
    whole = load_dataset("digits", seed=0).train
    share = partition_iid(len(whole), 2, seed=0)[1]
    part = share.of(whole)
    for position in (0, 17, len(part) - 1):
        assert torch.equal(part.images[position], whole.images[share.indices[position]])
        assert part.labels[position] == whole.labels[share.indices[position]]


@pytest.mark.parametrize("site", [-1, 2])
def test_a_share_that_does_not_exist_is_refused(site: int) -> None:
    with pytest.raises(ConfigurationError, match=f"there is no share {site} of 2"):
        DataSpec(site, sites=2)


def test_a_histogram_counts_absent_classes_too() -> None:
    assert label_histogram(torch.tensor([0, 3, 3]), 5) == (1, 0, 0, 2, 0)


def test_samples_out_of_step_are_refused() -> None:
    with pytest.raises(ValueError, match="2 images but 3 labels"):
        Samples(torch.zeros(2, 3, 32, 32), torch.zeros(3, dtype=torch.int64))


def test_batches_cover_the_samples_in_the_order_asked_for() -> None:
    samples = Samples(torch.arange(5.0).reshape(5, 1, 1, 1), torch.arange(5))
    assert [batch.labels.tolist() for batch in samples.batches(2)] == [[0, 1], [2, 3], [4]]
    backwards = torch.tensor([4, 3, 2, 1, 0])
    assert [batch.labels.tolist() for batch in samples.batches(3, backwards)] == [[4, 3, 2], [1, 0]]


def test_generators_differ_by_seed_and_scope() -> None:
    generators = [
        seeded_generator(0, "a", 1),
        seeded_generator(0, "a", 2),
        seeded_generator(0, "b", 1),
        seeded_generator(1, "a", 1),
        seeded_generator(0, "a1"),
        seeded_generator(0),
    ]
    assert len({torch.rand(1, generator=generator).item() for generator in generators}) == len(generators)


def test_any_whole_number_is_a_seed() -> None:
    for seed in (-1, 2**70):
        draws = [torch.rand(3, generator=seeded_generator(seed, "x")) for _ in range(2)]
        assert torch.equal(*draws)
