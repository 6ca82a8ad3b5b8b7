"""A part of a graph as a model of its own."""

from __future__ import annotations

from onnx import ModelProto, NodeProto, TensorProto, helper

from inc_autotune.ort_ext.graph.graph_model import GraphModel, copy_fields, names_read


def part_between(model: GraphModel, source: str, target: str) -> GraphModel | None:
    """What computes one tensor from another.

    Where a QuantizeLinear and a DequantizeLinear make the source, the part begins with these, and its input is the
    float tensor that they round.

    Args:
        model: the whole.
        source: a float tensor, the only input of the part.
        target: its only output.

    Returns:
        None where the target does not follow from the source and constants alone.
    """
    producers = {name: node for node in model.proto.graph.node for name in node.output if name}
    start = _before_rounding(source, producers)
    constants = {tensor.name for tensor in model.proto.graph.initializer}
    needed: dict[int, NodeProto] = {}
    left, met = [target], False
    while left:
        tensor = left.pop()
        if tensor == start:
            met = True
        elif tensor and tensor not in constants:
            node = producers.get(tensor)
            if node is None:  # another input of the model
                return None
            if id(node) not in needed:
                needed[id(node)] = node
                left += names_read(helper.make_graph([node], "", [], []))
    if not met or not needed:
        return None
    proto = ModelProto()
    copy_fields(model.proto, proto, {"graph", "metadata_props"})
    graph = proto.graph
    graph.name = "part"
    graph.node.extend(node for node in model.proto.graph.node if id(node) in needed)
    graph.initializer.extend(model.proto.graph.initializer)
    graph.input.append(helper.make_tensor_value_info(start, TensorProto.FLOAT, None))
    graph.output.append(helper.make_empty_tensor_value_info(target))
    return GraphModel(proto, model.weights, model.folder)


def _before_rounding(tensor: str, producers: dict[str, NodeProto]) -> str:
    """The float tensor that was quantized to make a dequantized one; any other tensor itself."""
    node = producers.get(tensor)
    if node is None or node.op_type != "DequantizeLinear":
        return tensor
    before = producers.get(node.input[0])
    return str(before.input[0]) if before is not None and before.op_type == "QuantizeLinear" else tensor
