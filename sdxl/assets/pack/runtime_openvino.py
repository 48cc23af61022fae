"""The graphs of a folder in OpenVINO."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # nothing is sent
import openvino  # noqa: E402

NUMBERS = {"f32": np.float32, "f16": np.float16, "i64": np.int64}


def versions() -> dict[str, str]:
    """Of what draws."""
    return {"openvino": openvino.__version__.partition("-")[0]}


class Graphs:
    """Compiled models by the name of their folder; on a CPU sums are in fp32, as they were."""

    def __init__(self, folder: Path, told: dict[str, Any], device: str = "CPU") -> None:
        core, exact = openvino.Core(), {}
        if device == "CPU":
            exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
        self.models = {
            path.parent.name: core.compile_model(path, device, exact)
            for path in sorted(folder.glob("*/openvino_model.xml"))
        }

    def run(self, graph: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name; inputs are cast as the graph wants them."""
        model = self.models[graph]
        kinds = {port.any_name: port.element_type.get_type_name() for port in model.inputs}
        found = model({name: inputs[name].astype(NUMBERS[kind]) for name, kind in kinds.items()})
        return {name: found[port] for port in model.outputs for name in port.names}
