"""Data sets and each site's share of them: the digits, CIFAR-10, Fashion-MNIST; dealt out evenly or unevenly."""

from training._data_choice import DatasetName
from training._label_table import label_table
from training.data._samples import (
    IMAGE_SIDE,
    Dataset,
    DatasetDamagedError,
    DatasetMissingError,
    Samples,
    label_histogram,
    seeded_generator,
)
from training.data._share import DataSpec, load_dataset, load_share
from training.data.digits import DIGITS_TEST_SAMPLES
from training.data.partitions import (
    Partition,
    partition,
    partition_dirichlet,
    partition_iid,
    partition_quantity,
    partition_shards,
)

__all__ = [
    "DIGITS_TEST_SAMPLES",
    "IMAGE_SIDE",
    "DataSpec",
    "Dataset",
    "DatasetDamagedError",
    "DatasetMissingError",
    "DatasetName",
    "Partition",
    "Samples",
    "label_histogram",
    "label_table",
    "load_dataset",
    "load_share",
    "partition",
    "partition_dirichlet",
    "partition_iid",
    "partition_quantity",
    "partition_shards",
    "seeded_generator",
]
