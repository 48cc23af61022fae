"""The optimizer's rules by operator: the graphs that all of onnxscript's own would leave."""

import re
import shutil

import onnx_ir as ir
import pytest
import torch
from onnxscript import optimizer, rewriter
from torch import nn

from sdxl.config import graphs
from sdxl.export import onnx_graph, simplify


class Block(nn.Module):
    """What a UNet is made of: norm, convolution, division by 1, attention of a free batch."""

    def __init__(self):
        super().__init__()
        from diffusers.models.attention import BasicTransformerBlock
        from diffusers.models.resnet import ResnetBlock2D

        self.resnet = ResnetBlock2D(in_channels=8, temb_channels=8, groups=4)
        self.attention = BasicTransformerBlock(8, 2, 4, activation_fn="geglu")

    def forward(self, image, embedding):
        found = self.resnet(image, embedding)
        rows = found.permute(0, 2, 3, 1).reshape(found.shape[0], -1, 8)
        mixed = self.attention(rows).reshape(found.shape[0], 4, 4, 8)
        return mixed.permute(0, 3, 1, 2)


def test_it_leaves_the_graph_that_onnxscript_leaves():
    torch.manual_seed(0)
    block = Block().eval()
    with onnx_graph._quiet():
        program = torch.onnx.export(
            block, (torch.randn(2, 8, 4, 4), torch.randn(2, 8)), dynamo=True, opset_version=18,
            dynamic_shapes=({0: "rows"}, {0: "rows"}), optimize=False, verify=False, verbose=False,
        )  # fmt: skip
        ours = ir.serde.serialize_model(program.model)
        before, found = len(ours.graph.node), []
        for work in (simplify.simplify, lambda each: optimizer.optimize_ir(each, num_iterations=4)):
            model = ir.serde.deserialize_model(ours)
            for value in model.graph.initializers.values():
                value.const_value = None  # as an export hides weights
            work(model)
            found.append([(n.op_type, [v and v.name for v in n.inputs]) for n in model.graph])
    assert found[0] == found[1]
    assert len(found[0]) < before / 2


@pytest.mark.parametrize("graph", graphs.GRAPHS)
def test_no_rule_of_onnxscript_is_left_to_apply(exported, graph, tmp_path):
    """Also none of those that `RULES` leaves out."""
    # A copy: another graph may share the file of weights by a link, which `ir.load` refuses.
    folder = shutil.copytree(exported.folder(graph), tmp_path / graph)
    model = ir.load(folder / graphs.MODEL)
    assert not rewriter.RewritePass(rewriter._DEFAULT_REWRITE_RULES)(model).modified


def test_the_rules_are_onnxscripts_own_in_its_order():
    theirs = [rule._target_pattern for rule in rewriter._DEFAULT_REWRITE_RULES]
    for operator, rules in simplify.RULES.items():
        wanted = [said(each) for each in theirs if each.output_nodes[0].op_type == operator]
        assert [said(rule._target_pattern) for rule in rules] == wanted, operator


def said(pattern):
    """A pattern in words, without the numbers of its values."""
    return re.sub(r"anonymous:\d+", "", str(pattern))
