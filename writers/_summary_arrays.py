"""The methods of `SummaryWriter` that log distributions, curves, tensors, meshes and embeddings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from eventbus import Receipt
from eventbus.errors import BadInputError
from eventbus.media import EmbeddingLogged, HistogramLogged, MeshLogged, PrCurveLogged, TensorLogged
from writers._arrays import array_of, kept_array, package, real_array_of
from writers._curves import pr_curve, raw_curve
from writers._histogram import histogram
from writers._keys import shown
from writers._pixels import sprite_of
from writers._summary import Place, SummaryMethods
from writers._values import json_value, number

if TYPE_CHECKING:
    from eventbus.blobs import Blob


class ArrayMethods(SummaryMethods):
    """Distributions, curves, tensors, meshes and embeddings."""

    def add_histogram(  # noqa: PLR0917 - TensorBoard's own arguments, in its order
        self,
        tag: str,
        values: Any,
        global_step: Any = None,
        bins: Any = "tensorflow",
        walltime: float | None = None,
        max_bins: int | None = None,
    ) -> Receipt:
        """Log how values are distributed: counted here, and a few kilobytes however many they are.

        Args:
            tag: Its name.
            values: An array, a tensor or a nested list of numbers.
            global_step: An integer from 0; None is stored as 0.
            bins: `tensorflow`, or what `numpy.histogram` takes.
            walltime: When, seconds since the epoch; now by default.
            max_bins: Neighbouring bins are put together until there are at most about so many.

        Raises:
            BadInputError: The tag, the values, the bins or the step can't be recorded, and bad input raises.
        """

        def make(at: Place) -> HistogramLogged:
            return HistogramLogged(key=at.key, step=at.step, **histogram(tag, values, bins, max_bins))

        return self._log(tag, make, global_step, walltime)

    def add_histogram_raw(  # noqa: PLR0917 - TensorBoard's own arguments, in its order
        self,
        tag: str,
        min: float,
        max: float,
        num: float,
        sum: float,
        sum_squares: float,
        bucket_limits: Any,
        bucket_counts: Any,
        global_step: Any = None,
        walltime: float | None = None,
    ) -> Receipt:
        """Log a distribution that was counted before.

        Args:
            tag: Its name.
            min: Smallest value.
            max: Largest value.
            num: How many values.
            sum: Their sum.
            sum_squares: The sum of their squares.
            bucket_limits: Upper limit of each bin, rising.
            bucket_counts: How many values each bin has.
            global_step: An integer from 0; None is stored as 0.
            walltime: When, seconds since the epoch; now by default.

        Raises:
            BadInputError: The tag, a number or the step can't be recorded, and bad input raises.
        """
        told = {"min": min, "max": max, "num": num, "sum": sum, "sum_squares": sum_squares}

        def make(at: Place) -> HistogramLogged:
            limits, counts = (
                array_of(tag, one).astype(float).reshape(-1).tolist() for one in (bucket_limits, bucket_counts)
            )
            if len(limits) != len(counts):
                raise BadInputError(f"{shown(tag)} has {len(limits)} limits and {len(counts)} counts: one for each")
            numbers = {name: number(name, value) for name, value in told.items()}
            return HistogramLogged(key=at.key, step=at.step, limits=limits, counts=counts, **numbers)

        return self._log(tag, make, global_step, walltime)

    def add_pr_curve(  # noqa: PLR0917 - TensorBoard's own arguments, in its order
        self,
        tag: str,
        labels: Any,
        predictions: Any,
        global_step: Any = None,
        num_thresholds: int = 127,
        weights: Any = None,
        walltime: float | None = None,
    ) -> Receipt:
        """Log precision and recall over thresholds.

        Args:
            tag: Its name.
            labels: What is true of each: 0 or 1.
            predictions: How probable that was said to be, from 0 to 1.
            global_step: An integer from 0; None is stored as 0.
            num_thresholds: Thresholds from 0 to 1, at most 127.
            weights: What each counts for: 1 by default.
            walltime: When, seconds since the epoch; now by default.

        Raises:
            BadInputError: The tag, the numbers or the step can't be recorded, and bad input raises.
        """

        def make(at: Place) -> PrCurveLogged:
            curve = pr_curve(tag, labels, predictions, num_thresholds, weights)
            return PrCurveLogged(key=at.key, step=at.step, curve=curve)

        return self._log(tag, make, global_step, walltime)

    def add_pr_curve_raw(  # noqa: PLR0917 - TensorBoard's own arguments, in its order
        self,
        tag: str,
        true_positive_counts: Any,
        false_positive_counts: Any,
        true_negative_counts: Any,
        false_negative_counts: Any,
        precision: Any,
        recall: Any,
        global_step: Any = None,
        num_thresholds: int = 127,
        weights: Any = None,
        walltime: float | None = None,
    ) -> Receipt:
        """Log precision and recall that were computed before, one number per threshold.

        Args:
            tag: Its name.
            true_positive_counts: Rightly called true.
            false_positive_counts: Wrongly called true.
            true_negative_counts: Rightly called false.
            false_negative_counts: Wrongly called false.
            precision: From 0 to 1.
            recall: From 0 to 1.
            global_step: An integer from 0; None is stored as 0.
            num_thresholds: Accepted: the lists say it.
            weights: Accepted: the counts have them in them.
            walltime: When, seconds since the epoch; now by default.

        Raises:
            BadInputError: The tag, the lists or the step can't be recorded, and bad input raises.
        """
        counts = (true_positive_counts, false_positive_counts, true_negative_counts, false_negative_counts)

        def make(at: Place) -> PrCurveLogged:
            return PrCurveLogged(key=at.key, step=at.step, curve=raw_curve(tag, (*counts, precision, recall)))

        return self._log(tag, make, global_step, walltime)

    def add_tensor(self, tag: str, tensor: Any, global_step: Any = None, walltime: float | None = None) -> Receipt:
        """Log a tensor as it is.

        Args:
            tag: Its name.
            tensor: A tensor, an array or a nested list of numbers.
            global_step: An integer from 0; None is stored as 0.
            walltime: When, seconds since the epoch; now by default.

        Raises:
            BadInputError: The tag, the tensor or the step can't be recorded, and bad input raises.
        """

        def make(at: Place) -> TensorLogged:
            return TensorLogged(key=at.key, step=at.step, tensor=kept_array(at.store, array_of(tag, tensor)))

        return self._log(tag, make, global_step, walltime)

    def add_mesh(  # noqa: PLR0917 - TensorBoard's own arguments, in its order
        self,
        tag: str,
        vertices: Any,
        colors: Any = None,
        faces: Any = None,
        config_dict: Mapping[str, Any] | None = None,
        global_step: Any = None,
        walltime: float | None = None,
    ) -> Receipt:
        """Log triangles or points in space.

        Args:
            tag: Its name.
            vertices: Batch x number of vertices x 3.
            colors: Batch x number of vertices x 3: 0 to 255, or numbers from 0 to 1.
            faces: Batch x number of faces x 3: which vertices form a triangle.
            config_dict: What three.js is told.
            global_step: An integer from 0; None is stored as 0.
            walltime: When, seconds since the epoch; now by default.

        Raises:
            BadInputError: The tag, the numbers or the step can't be recorded, and bad input raises.
        """

        def make(at: Place) -> MeshLogged:
            parts = {"vertices": _triples(tag, vertices, "float32")}
            parts |= {} if colors is None else {"colors": _triples(tag, _shades(tag, colors), "uint8")}
            parts |= {} if faces is None else {"faces": _triples(tag, faces, "int32")}
            config = cast("dict[str, Any]", json_value(tag, dict(config_dict or {})))
            kept = {name: kept_array(at.store, part) for name, part in parts.items()}
            return MeshLogged(key=at.key, step=at.step, config=config, **kept)

        return self._log(tag, make, global_step, walltime)

    def add_embedding(  # noqa: PLR0917 - TensorBoard's own arguments, in its order
        self,
        mat: Any,
        metadata: Sequence[Any] | None = None,
        label_img: Any = None,
        global_step: Any = None,
        tag: str = "default",
        metadata_header: Sequence[str] | None = None,
    ) -> Receipt:
        """Log points in a space of many dimensions, for TensorBoard's projector.

        Args:
            mat: Number of points x dimensions.
            metadata: What each point is; with a header, one field for each of its names.
            label_img: A picture of each: number of points x channels x height x width.
            global_step: An integer from 0; None is stored as 0.
            tag: Its name.
            metadata_header: Names of the fields of `metadata`.

        Raises:
            BadInputError: The tag, the numbers or the step can't be recorded, and bad input raises.
        """

        def make(at: Place) -> EmbeddingLogged:
            matrix = real_array_of(tag, mat)
            if matrix.ndim != 2:  # noqa: PLR2004 - points x dimensions
                raise BadInputError(f"{shown(tag)} has shape {matrix.shape}: pass number of points x dimensions")
            header = [str(name) for name in metadata_header or ()]
            return EmbeddingLogged(
                key=at.key,
                step=at.step,
                matrix=kept_array(at.store, matrix),
                labels=None if metadata is None else _labels(at, metadata, header, len(matrix)),
                header=header if metadata is not None else [],
                **_sprite(at, label_img, len(matrix)),
            )

        return self._log(tag, make, global_step)


def _triples(tag: str, value: Any, dtype: str) -> Any:
    """Return numbers as batch x number x 3 of a type that has room for them."""
    numpy, array = package("numpy"), real_array_of(tag, value)
    if array.ndim != 3 or array.shape[2] != 3:  # noqa: PLR2004 - x, y, z
        raise BadInputError(f"{shown(tag)} has shape {array.shape}: a mesh has batch x number x 3")
    with numpy.errstate(all="ignore"):
        converted = array.astype(dtype)
    if dtype != "float32" and not (converted == array).all():
        raise BadInputError(f"{shown(tag)} has numbers that are none of {dtype}: pass whole ones in its range")
    return converted


def _shades(tag: str, colors: Any) -> Any:
    """Return colours as 0 to 255; those given as 0 to 1 are made so."""
    array = real_array_of(tag, colors)
    if array.dtype.kind == "f":
        return (array * 255 if array.max() <= 1 else array).astype("float64").round()
    return array


def _labels(at: Place, metadata: Sequence[Any], header: list[str], points: int) -> Blob:
    rows: list[Any] = [[str(field) for field in row] if header else str(row) for row in metadata]
    if len(rows) != points:
        raise BadInputError(f"{shown(at.key)} has {points} points and {len(rows)} labels: pass one for each")
    if any(header and len(row) != len(header) for row in rows):
        raise BadInputError(f"{shown(at.key)} has labels that are not of {len(header)} fields, as metadata_header is")
    return at.store.put(json.dumps(rows).encode())


def _sprite(at: Place, pictures: Any, points: int) -> dict[str, Any]:
    if pictures is None:
        return {}
    batch = real_array_of(at.key, pictures)
    picture = sprite_of(at.key, batch)
    if len(batch) != points:
        raise BadInputError(f"{shown(at.key)} has {points} points and {len(batch)} pictures: pass one for each")
    return {"sprite": at.picture(picture), "sprite_size": [batch.shape[3], batch.shape[2]]}
