"""The engines of a folder in TensorRT or TensorRT-RTX, with PyTorch's memory on the GPU."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

DTYPES = {"FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16}
DTYPES |= {"INT64": torch.int64, "INT32": torch.int32}


def versions() -> dict[str, str]:
    """Of what draws."""
    return {"torch": torch.__version__}


class Graphs:
    """An engine and its context for each `*.engine`."""

    def __init__(self, folder: Path, told: dict[str, Any]) -> None:
        self.trt: Any = importlib.import_module(told["library"])
        self.runtime = self.trt.Runtime(self.trt.Logger(self.trt.Logger.WARNING))
        self.engines = {path.stem: self._open(path) for path in sorted(folder.glob("*.engine"))}

    def _open(self, path: Path) -> tuple[Any, Any]:
        engine = self.runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise RuntimeError(f"{path.name} is for another GPU or version: see pack.json")
        return engine, engine.create_execution_context()

    def run(self, graph: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name; short batches are filled up to the engine's smallest."""
        engine, context = self.engines[graph]
        names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
        given = [n for n in names if engine.get_tensor_mode(n) == self.trt.TensorIOMode.INPUT]
        rows, held = max(len(inputs[name]) for name in given), {}
        for name in given:
            least = engine.get_tensor_profile_shape(name, 0)[0][0]
            filled = inputs[name][np.minimum(np.arange(max(least, len(inputs[name]))), rows - 1)]
            held[name] = torch.from_numpy(filled).to("cuda", self._dtype(engine, name)).contiguous()
            context.set_input_shape(name, tuple(held[name].shape))
        for name in [each for each in names if each not in given]:
            shape = tuple(context.get_tensor_shape(name))
            held[name] = torch.empty(shape, dtype=self._dtype(engine, name), device="cuda")
        for name, tensor in held.items():
            context.set_tensor_address(name, tensor.data_ptr())
        stream = torch.cuda.current_stream()
        if not context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError(f"TensorRT could not run {graph}")
        stream.synchronize()
        return {n: held[n][:rows].float().cpu().numpy() for n in names if n not in given}

    def _dtype(self, engine: Any, name: str) -> torch.dtype:
        return DTYPES[engine.get_tensor_dtype(name).name]
