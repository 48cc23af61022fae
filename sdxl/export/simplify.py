"""onnxscript's optimizer, each rule tried only at nodes that it can match: the same graph, sooner.

Its own passes try some forty rules at each node, up to four times: minutes at SDXL's size.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxscript import optimizer, rewriter
from onnxscript.rewriter.rules import common as rules

MOST_ROUNDS = 4
RULES = {
    "Mul": rules.mul_by_1_rule.commute(),
    "Add": rules.add_0_rule.commute(),
    "Sub": [rules.sub_0_rule],
    "Div": [rules.div_by_1_rule],
    "Reshape": [
        rules.two_reshapes_matmul_reshape_rule,
        rules.one_reshape_matmul_reshape_rule,
        rules.materialize_reshape_shape_rule,
        rules.reshape_reshape_rule,
        rules.squeeze_reshape_1d_rule,
    ],
    "Cast": [
        rules.cast_constant_of_shape_rule,
        rules.cast_constant_of_shape_without_value_rule,
        rules.cast_cast_rule,
        rules.no_op_cast_rule,
    ],
    "Slice": [rules.collapse_slice_rule, rules.collapse_slice2_rule, rules.slice_split_rule],
    "Expand": [rules.no_op_expand_rule],
    "Transpose": [rules.no_op_transpose_rule, rules.transpose_transpose_rule],
    "Unsqueeze": [rules.unsqueeze_unsqueeze_rule],
}
"""By the operator they end in, in onnxscript's order; of its default rules those whose operators
our networks have.
"""


class _Rooted:
    """A rule that looks at nodes of one operator only."""

    def __init__(self, operator: str, rule: Any) -> None:
        self._operator, self._rule = operator, rule

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rule, name)

    def try_rewrite(self, model: Any, graph: Any, node: Any, **words: Any) -> Any:
        """What takes the node's place; None: nothing."""
        if node.op_type != self._operator:
            return None
        return self._rule.try_rewrite(model, graph, node, **words)


def simplify(model: ir.Model) -> None:
    """Fold constants, rewrite, drop what nobody reads, until nothing changes; then tidy up."""
    rooted = [_Rooted(operator, rule) for operator, found in RULES.items() for rule in found]
    steps = [
        rewriter.RewritePass(rewriter.RewriteRuleSet(rooted)),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedFunctionsPass(),
        passes.RemoveUnusedOpsetsPass(),
    ]
    passes.InlinePass()(model)
    for _ in range(MOST_ROUNDS):
        done = [optimizer.fold_constants_ir(model, onnx_shape_inference=True)]
        done += [step(model) for step in steps]
        if not any(each.modified for each in done):
            break
    for tidy in (
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.LiftSubgraphInitializersToMainGraphPass(),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    ):
        tidy(model)
