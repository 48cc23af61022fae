"""The graphs of a folder in ONNX Runtime."""

from pathlib import Path

import numpy as np
import onnxruntime as ort

NUMBERS = {"float": np.float32, "float16": np.float16, "int64": np.int64}


def versions() -> dict[str, str]:
    """Of what draws."""
    return {"onnxruntime": ort.__version__}


class Graphs:
    """Sessions by the name of their folder."""

    def __init__(self, folder: Path, told: dict) -> None:
        options = ort.SessionOptions()
        if told.get("products"):  # without VNNI they would be added in 16 bits, which overflow
            options.add_session_config_entry("session.x64quantprecision", "1")
        if "fp8" in told["quant"] or "mixed" in told["quant"]:  # fusions for INT8 meet FP8
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        self.sessions = {
            path.parent.name: ort.InferenceSession(path, options, ort.get_available_providers())
            for path in sorted(folder.glob("*/model.onnx"))
        }

    def run(self, graph: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name; inputs are cast as the graph wants them."""
        session = self.sessions[graph]
        kinds = {each.name: each.type[7:-1] for each in session.get_inputs()}
        given = {name: inputs[name].astype(NUMBERS[kind]) for name, kind in kinds.items()}
        names = [each.name for each in session.get_outputs()]
        return dict(zip(names, session.run(names, given), strict=True))
