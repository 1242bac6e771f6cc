"""What TensorBoard's plugins for hyperparameters, charts, meshes and graphs read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from eventbus.tracking import Chart, HParamsLogged, Scalar

if TYPE_CHECKING:
    from eventbus.media import MeshLogged
    from receivers._tensorboard_formats import Formats

BAND = 3
"""Tags of a line with a band: value, lower and upper bound."""

PRODUCER = 22
"""Version that the SDK's graphs say they are of."""

ONNX_ERRORS = (ValueError, TypeError, AttributeError, LookupError)
"""What bytes that are no model of ONNX raise, beside protobuf's own error."""


# --- hyperparameters ------------------------------------------------------------------------------------------------


def hparams(formats: Formats, event: HParamsLogged) -> Iterator[Any]:
    """Return the three summaries of a session: what may vary, what it had, and that it ended."""
    api: Any = import_module("tensorboard.plugins.hparams.api_pb2")
    data: Any = import_module("tensorboard.plugins.hparams.plugin_data_pb2")
    infos = [_info(api, name, value, event.domain.get(name)) for name, value in event.params.items()]
    metrics = [api.MetricInfo(name=api.MetricName(tag=name)) for name in event.metrics]
    start = data.SessionStartInfo()
    for name, value in event.params.items():
        setattr(start.hparams[name], *_field(value))
    told = {
        "experiment": api.Experiment(hparam_infos=infos, metric_infos=metrics),
        "session_start_info": start,
        "session_end_info": data.SessionEndInfo(status=api.Status.Value("STATUS_SUCCESS")),
    }
    for name, content in told.items():
        plugin_data = data.HParamsPluginData(version=0, **{name: content})
        metadata = formats.plugin("hparams", plugin_data.SerializeToString())
        yield formats.summary([formats.value(f"_hparams_/{name}", metadata=metadata)])


def _info(api: Any, name: str, value: Scalar, domain: Sequence[Scalar] | None) -> Any:
    kind = api.DataType.Value("DATA_TYPE_STRING" if isinstance(value, str) else "DATA_TYPE_FLOAT64")
    if domain is None:
        return api.HParamInfo(name=name, type=kind)
    struct: Any = import_module("google.protobuf.struct_pb2")
    values = [struct.Value(**dict([_field(one)])) for one in domain]
    return api.HParamInfo(name=name, type=kind, domain_discrete=struct.ListValue(values=values))


def _field(value: Scalar) -> tuple[str, str | float]:
    """Return the field of a hyperparameter, and its value there: a bool is a number, as the SDK has it."""
    return ("string_value", value) if isinstance(value, str) else ("number_value", float(value))


# --- charts ---------------------------------------------------------------------------------------------------------


def layout(formats: Formats, charts: Sequence[Chart]) -> Any:
    """Return the charts by their categories."""
    messages: Any = import_module("tensorboard.plugins.custom_scalar.layout_pb2")
    categories: dict[str, list[Any]] = {}
    for chart in charts:
        categories.setdefault(chart.category, []).append(_chart(messages, chart))
    whole = messages.Layout(category=[messages.Category(title=name, chart=one) for name, one in categories.items()])
    tensor = formats.texts(whole.SerializeToString())
    metadata = formats.plugin("custom_scalars")
    return formats.summary([formats.value("custom_scalars__config__", tensor=tensor, metadata=metadata)])


def _chart(messages: Any, chart: Chart) -> Any:
    if chart.kind == "Multiline":
        return messages.Chart(title=chart.title, multiline=messages.MultilineChartContent(tag=chart.tags))
    margin, tags = messages.MarginChartContent, chart.tags
    bands = [tags[at : at + BAND] for at in range(0, len(tags) - BAND + 1, BAND)]
    series = [margin.Series(value=value, lower=lower, upper=upper) for value, lower, upper in bands]
    return messages.Chart(title=chart.title, margin=margin(series=series))


# --- meshes ---------------------------------------------------------------------------------------------------------


def mesh(formats: Formats, event: MeshLogged, parts: Mapping[str, Sequence[float]]) -> Any:
    """Return a mesh: one value for each of its parts.

    Args:
        formats: What tensorboard brings.
        event: The mesh.
        parts: Its numbers: `vertices`, and where there are such, `faces` and `colors`.
    """
    metadata: Any = import_module("tensorboard.plugins.mesh.metadata")
    data: Any = import_module("tensorboard.plugins.mesh.plugin_data_pb2").MeshPluginData
    kinds = {"vertices": data.VERTEX, "faces": data.FACE, "colors": data.COLOR}
    components = metadata.get_components_bitmask([kind for name, kind in kinds.items() if name in parts])
    config = json.dumps(event.config, sort_keys=True)
    values: list[Any] = []
    for name, kind in kinds.items():
        if name in parts:
            shape = getattr(event, name).shape
            told = metadata.create_summary_metadata(event.key, None, kind, components, shape, None, json_config=config)
            tag = metadata.get_instance_name(event.key, kind)
            values.append(formats.value(tag, metadata=told, tensor=formats.floats(parts[name], shape)))
    return formats.summary(values)


# --- graphs ---------------------------------------------------------------------------------------------------------


def graph_of_onnx(model: bytes) -> bytes | None:
    """Return a model of ONNX as TensorFlow's graph.

    Returns:
        The graph, serialised; None where the package onnx is not installed, or the bytes are no such model.
    """
    if find_spec("onnx") is None:
        return None
    onnx: Any = import_module("onnx")
    errors = (*ONNX_ERRORS, import_module("google.protobuf.message").DecodeError)
    try:
        graph = onnx.load_model_from_string(model).graph
        nodes = [*map(_end, (*graph.input, *graph.output)), *map(_operation, graph.node)]
    except errors:
        return None
    versions: Any = import_module("tensorboard.compat.proto.versions_pb2")
    graphs: Any = import_module("tensorboard.compat.proto.graph_pb2")
    return graphs.GraphDef(node=nodes, versions=versions.VersionDef(producer=PRODUCER)).SerializeToString()


def _end(end: Any) -> Any:
    """Return an input or an output of a model as a node."""
    shapes: Any = import_module("tensorboard.compat.proto.tensor_shape_pb2").TensorShapeProto
    kind = end.type.tensor_type
    shape = shapes(dim=[shapes.Dim(size=side.dim_value) for side in kind.shape.dim])
    return _node(end.name, "Variable", (), dtype={"type": kind.elem_type}, shape={"shape": shape})


def _operation(node: Any) -> Any:
    told = (" = ".join(str(field[1]) for field in attribute.ListFields()) for attribute in node.attribute)
    return _node(node.output[0], node.op_type, node.input, parameters={"s": ", ".join(told).encode()})


def _node(name: str, operation: str, inputs: Sequence[str], **attributes: Mapping[str, Any]) -> Any:
    attr: Any = import_module("tensorboard.compat.proto.attr_value_pb2").AttrValue
    nodes: Any = import_module("tensorboard.compat.proto.node_def_pb2")
    values = {key: attr(**value) for key, value in attributes.items()}
    return nodes.NodeDef(name=name, op=operation, input=inputs, attr=values)
