"""The edit on a graph made by hand: layers stored in another order than they are computed."""

import torch
from onnx import TensorProto, helper, numpy_helper

from sdxl.config.schema import Format
from sdxl.export.qdq import check
from sdxl.export.qdq.edit import Edit
from sdxl.export.qdq.graph import SCOPES
from sdxl.export.qdq.options import TENSORRT
from sdxl.model import checkpoint, codes
from sdxl.model.checkpoint import Checkpoint, StoredLayer

COMPUTED = ("mid_block", "up_blocks")
STORED = COMPUTED[::-1]  # diffusers registers mid_block last


def two_linears():
    """Two products of one input, as torch's exporter writes Linears."""
    nodes = []
    for name in COMPUTED:
        node = helper.make_node("MatMul", ["x", f"{name}.weight"], [f"{name}/out"])
        node.metadata_props.add(key=SCOPES, value=str(["", name, "linear"]))
        nodes.append(node)
    weights = [numpy_helper.from_array(torch.eye(4).numpy(), f"{name}.weight") for name in COMPUTED]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 4])
              for name in ("x", *(f"{name}/out" for name in COMPUTED))]  # fmt: skip
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def test_a_shared_chain_stands_before_the_first_that_reads_it(tmp_path):
    amax, tensors = torch.ones(4, 1), {}
    for name in STORED:
        tensors[f"{name}.weight"] = codes.integer_codes(torch.eye(4), amax)
        tensors |= {f"{name}.weight_amax": amax.clone(), f"{name}.input_amax": torch.tensor(2.0)}
    checkpoint.write(tmp_path, [StoredLayer(n, "linear", Format.int8) for n in STORED], tensors)
    model = two_linears()
    edit = Edit(model, Checkpoint(tmp_path), TENSORRT)
    edit.run()
    assert edit.shared_inputs == 1
    check.valid(model)
