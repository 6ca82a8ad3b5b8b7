"""Brings a model, its functions and its nodes to one version of the standard operators."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, helper, numpy_helper, version_converter

from inc_autotune.core.errors import ModelError
from inc_autotune.ort_ext.graph import all_nodes, is_header

OLDEST_OPSET = 13
"""The first one with QuantizeLinear and DequantizeLinear for each channel."""

OLDEST_CONVERTED = 7
"""Models of older opsets are refused: what their operators broadcast is written in attributes."""

FIRST_WITH_PIXEL_CENTERS = 11

STANDARD = ("", "ai.onnx")


def opset_version(proto: ModelProto | FunctionProto) -> int:
    """Version of the standard operators; 1 where none is imported."""
    return max((opset.version for opset in proto.opset_import if opset.domain in STANDARD), default=1)


def spell_domains(proto: ModelProto) -> None:
    """Write the standard domain as the empty string everywhere, in place.

    Files may call it "ai.onnx", also in some of its nodes only, which onnx's own tools take for another domain.
    """
    for part in (proto, *proto.functions):
        version = opset_version(part)
        if any(opset.domain == "ai.onnx" for opset in part.opset_import):
            kept = [opset for opset in part.opset_import if opset.domain not in STANDARD]
            del part.opset_import[:]
            part.opset_import.extend([helper.make_opsetid("", version), *kept])
    for node in _nodes_everywhere(proto):
        if node.domain == "ai.onnx":
            node.domain = ""


def with_one_opset(proto: ModelProto) -> ModelProto:
    """The model with an opset that can be quantized, and its functions with the same; itself if that is so already.

    Args:
        proto: a model whose weights may be only headers; not changed.

    Raises:
        ModelError: it is too old, or the version converter of onnx cannot convert it.
    """
    versions = [opset_version(proto), *(opset_version(function) for function in proto.functions)]
    if versions[0] < OLDEST_CONVERTED:
        raise ModelError(
            f"model: has opset {versions[0]}, but quantization by channel needs {OLDEST_OPSET} or newer, and models "
            f"below {OLDEST_CONVERTED} cannot be converted safely. Export it again with opset_version=18."
        )
    target = max(OLDEST_OPSET, *versions)
    if all(version == target for version in versions):
        return proto
    result = ModelProto()
    result.CopyFrom(proto)
    if versions[0] < target:
        _convert_graph(result, target)
    for function in result.functions:
        if opset_version(function) < target:
            _convert_function(function, target)
    return result


def _convert_graph(proto: ModelProto, target: int) -> None:
    """Replace the nodes of a model; weights, inputs and outputs stay as they are."""
    plain = ModelProto()
    plain.CopyFrom(proto)
    del plain.functions[:]
    converted = _converted(plain, target, "model")
    _keep_places(plain, converted)
    del proto.graph.node[:], proto.graph.value_info[:]
    proto.graph.node.extend(converted.node)
    known = {each.name for each in proto.graph.initializer}
    proto.graph.initializer.extend(each for each in converted.initializer if each.name not in known)
    _set_version(proto, target)


def _keep_places(old: ModelProto, converted: GraphProto) -> None:
    """Let a Resize of opset 10, or an Upsample, take its values where it did before.

    Since opset 11 pixels have centers, unless attributes say that they have not. The converter of onnx (1.23) does not
    write these.
    """
    if opset_version(old) >= FIRST_WITH_PIXEL_CENTERS:
        return
    resized = {node.output[0]: node for node in old.graph.node if node.op_type in ("Resize", "Upsample")}
    small = {each.name: each for each in old.graph.initializer if not is_header(each)}
    for node in converted.node:
        before = resized.get(node.output[0]) if node.output else None
        if before is None or node.op_type != "Resize":
            continue
        scales = small.get(before.input[1]) if len(before.input) > 1 else None
        shrinks = scales is not None and bool((numpy_helper.to_array(scales) < 1).any())
        node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
        node.attribute.append(helper.make_attribute("nearest_mode", "ceil" if shrinks else "floor"))


def _convert_function(function: FunctionProto, target: int) -> None:
    """The same for the body of a function, whose attributes may refer to those of its caller."""
    if _means_the_same(function, target):
        _set_version(function, target)
        return
    names = [node.name for node in function.node]
    for index, node in enumerate(function.node):
        node.name = str(index)
    graph = helper.make_graph(
        function.node,
        function.name,
        [onnx.ValueInfoProto(name=name) for name in function.input],
        [onnx.ValueInfoProto(name=name) for name in function.output],
    )
    plain = helper.make_model(graph, opset_imports=function.opset_import)
    converted = _converted(plain, target, f"function {function.name!r}")
    old = {node.name: node for node in function.node}
    for node in converted.node:
        before = old.get(node.name)
        if before is None:
            continue
        referring = {each.name: each for each in before.attribute if each.ref_attr_name}
        for attribute in node.attribute:
            if attribute.name in referring:  # the converter knows no references, and writes zeros
                attribute.CopyFrom(referring.pop(attribute.name))
        if referring:
            raise ModelError(
                f"model: function {function.name!r} has opset {opset_version(function)}, the model {target}, and "
                f"attribute {next(iter(referring))!r} of a {before.op_type} in it cannot be converted. Export the "
                "model again, with one opset."
            )
        node.name = names[int(node.name)]
    del function.node[:]
    function.node.extend(converted.node)
    _set_version(function, target)


def _means_the_same(function: FunctionProto, target: int) -> bool:
    """Whether every operator is the same in both versions."""
    version = opset_version(function)
    try:
        return all(
            onnx.defs.get_schema(node.op_type, version).since_version
            == onnx.defs.get_schema(node.op_type, target).since_version
            for node in all_nodes(function)
            if node.domain in STANDARD
        )
    except onnx.defs.SchemaError:
        return False


def _converted(proto: ModelProto, target: int, what: str) -> GraphProto:
    version = opset_version(proto)
    try:
        return version_converter.convert_version(proto, target).graph
    except Exception as error:  # whatever onnx raises
        raise ModelError(
            f"model: {what} has opset {version}, and onnx {onnx.__version__} cannot convert it to {target}: "
            f"{error}. Export it again with opset_version=18."
        ) from error


def _set_version(part: ModelProto | FunctionProto, version: int) -> None:
    for opset in part.opset_import:
        if opset.domain in STANDARD:
            opset.version = version
            return
    part.opset_import.append(helper.make_opsetid("", version))


def _nodes_everywhere(proto: ModelProto) -> Iterator[NodeProto]:
    for part in (proto.graph, *proto.functions):
        yield from all_nodes(part)
