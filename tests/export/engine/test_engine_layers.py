"""Counting an engine's layers by number format, from either of the two sources."""

import json

from sdxl.export.engine import layers

TENSOR = "{{ Name: {0}, Dimensions: [-1,64], Strides: [64,1], StrideOrder: [1,0], Datatype: {1}, Format: (Linear) Row major linear format }}"  # noqa: E501


def line(name, kind, inputs, outputs, constants=None):
    parts = [
        ", ".join(TENSOR.format(f"t{n}", word) for n, word in enumerate(words))
        for words in (inputs, constants or [], outputs)
    ]
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: [ {parts[0]}], Constants: [ {parts[1]}], "
        f"Outputs: [ {parts[2]}], TacticName: x, StreamId: 0, Metadata: [ONNX Layer: {name}]"
    )


LISTING = "Layers:\n" + "\n".join(
    [
        line("conv_1", "correlation", ["Int8", "Half"], ["Half"], ["Int8", "Float"]),
        line("conv_2", "correlation", ["Half"], ["Half"], ["Half"]),
        line("lin", "gemm", ["FP8"], ["Half"], ["FP8", "Float"]),
        line("weight_only", "gemm", ["Half"], ["Half"], ["Int8"]),
        line("__myl_FcAddAdd_myl0_9", "runtime_fusion", ["Half", "Half"], ["Half"]),
        line("_gemm_mha_v2_myl0_99", "kgen", ["Half", "Half", "Half"], ["Half"]),
        line("__myl_CastMean_myl0_4", "kgen", ["Float"], ["Half"]),
        line("cast_hvar", "cast", ["Int64"], ["Int64"]),
    ]
)


def test_the_builders_listing_is_read_whole():
    found = layers.from_log(LISTING)
    assert len(found) == 8
    assert found[0].inputs == ("Int8", "Half")
    assert found[0].constants == ("Int8", "Float")
    assert found[5].kind == "attention"


def test_layers_count_by_what_they_multiply():
    """A fused addition beside 8-bit inputs is 8-bit work; 8-bit weights alone are not."""
    assert layers.summary(layers.from_log(LISTING)) == {
        "attention": {"16": 1},
        "conv": {"8": 1, "16": 1},
        "matmul": {"8": 1, "16": 2},
        "other": {"32": 1},
        "shape": {"-": 1},
    }


def test_the_inspectors_json_says_the_same():
    def tensors(*words):
        return [{"Name": "t", "Dimensions": [2, 64], "Format/Datatype": word} for word in words]

    text = json.dumps(
        {
            "Layers": [
                {"Name": "conv_1", "LayerType": "CaskConvolution",
                 "Inputs": tensors("Channel major INT8 format", "Half"),
                 "Outputs": tensors("Half")},
                {"Name": "lin", "LayerType": "gemm", "Inputs": tensors("Half"),
                 "Outputs": tensors("Half")},
                "only a name",
            ],
            "Bindings": ["sample"],
        }
    )  # fmt: skip
    found = layers.from_inspector(text)
    assert layers.summary(found) == {"conv": {"8": 1}, "matmul": {"16": 1}}
