"""One engine in memory: loaded only if it belongs here, fed from torch's own buffers.

Nothing here imports a TensorRT library: `trt` is the module that the backend has loaded.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

import torch

from sdxl.config import engines, graphs
from sdxl.config.engines import Flavor, Settings
from sdxl.core import store, terminal
from sdxl.core.errors import SdxlError, UserError

GIB = 1 << 30
ALIGNMENT = 256
"""Bytes: TensorRT refuses a tensor whose address is no multiple (NvInferRuntime.h)."""
REBUILD = "python export.py backend=trt   # or build=auto: what does not fit is built again"

DTYPES = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT8": torch.int8,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "BOOL": torch.bool,
}
"""TensorRT's names of the types that cross a graph's border."""


def check(folder: Path, version: str, flavor: Flavor, gpu: dict[str, str]) -> dict[str, Any]:
    """The engine's manifest; raises `UserError` unless it was made by this library for this GPU.

    `gpu`: `name` and `capability` (sm90). An engine of another version, library or GPU, or a
    shortened one, is refused with the reason and never handed to TensorRT.
    """
    try:
        manifest = store.manifest_of(folder)
        made, bytes_ = manifest.settings, manifest.bytes_of(engines.ENGINE)
        facts = {name: made[name] for name in ("flavor", "tensorrt", "host", "rows")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} holds no engine of ours", f"{type(error).__name__}: {error}",
            f"{engines.ENGINE} with its manifest.json", REBUILD,
        ) from error  # fmt: skip
    file = folder / engines.ENGINE
    there = file.stat().st_size if file.is_file() else 0
    wrong = [
        ("library", facts["flavor"], flavor.value),
        ("version", facts["tensorrt"], version),
        ("host", facts["host"], engines.host()),
        ("size in bytes", there, bytes_),
    ]
    on = made.get("gpu")
    built_on: dict[str, Any] = on if isinstance(on, dict) else {}
    if flavor is Flavor.tensorrt and made.get("hardware_compatibility") != "ampere_plus":
        same_model = made.get("hardware_compatibility") != "same_compute_capability"
        for name in ("name", "capability") if same_model else ("capability",):
            wrong.append((f"GPU's {name}", built_on.get(name), gpu[name]))
    for what, got, wanted in wrong:
        if got != wanted:
            raise UserError(
                f"the engine in {folder} does not belong here: its {what} differs",
                got, wanted, REBUILD,
            )  # fmt: skip
    return manifest.to_json()


class Engine:
    """A deserialized engine with one execution context per use."""

    def __init__(self, trt: Any, log: Any, folder: Path, manifest: dict[str, Any],
                 settings: Settings) -> None:  # fmt: skip
        self._trt, self._log, self._settings = trt, log, settings
        self.folder, self.manifest = folder, manifest
        self.graph = manifest["settings"]["graph"]
        self.flavor = Flavor(manifest["settings"]["flavor"])
        self._runtime = trt.Runtime(log)
        self.engine = self._deserialize()
        if manifest["settings"]["flags"].count("STRIP_PLAN"):
            self._refit()
        if settings.weight_streaming:
            budget = settings.weight_streaming_budget_gib
            self.engine.weight_streaming_budget_v2 = (
                self.engine.get_weight_streaming_automatic_budget()
                if budget is None
                else int(budget * GIB)
            )
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        self.inputs = [n for n in names
                       if self.engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]  # fmt: skip
        self.outputs = [n for n in names if n not in self.inputs]
        self.least, _, self.most = manifest["settings"]["rows"]
        self._cache: Any = None
        self._memory: torch.Tensor | None = None
        self._plain: Any = None

    @property
    def activation_bytes(self) -> int:
        """Scratch memory that a context needs at the largest shapes."""
        return self.engine.device_memory_size_v2

    def dtype(self, name: str) -> torch.dtype:
        """Type of an input or output."""
        return DTYPES[self.engine.get_tensor_dtype(name).name]

    def use_memory(self, memory: torch.Tensor) -> None:
        """Where contexts keep activations: shared by all engines that run one after another."""
        self._memory = memory

    def context(self, cuda_graph: bool = False) -> Any:
        """A new execution context on the shared activation memory.

        `cuda_graph`: RTX records and replays its work itself.
        """
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self.flavor is Flavor.rtx:
            context = self.engine.create_execution_context(
                self._runtime_config(strategy, cuda_graph)
            )
        else:
            context = self.engine.create_execution_context(strategy)
        assert self._memory is not None, "use_memory() first"
        if context is None:
            raise self._failed("TensorRT made no execution context")
        context.set_device_memory(self._memory.data_ptr(), self._memory.nbytes)
        return context

    def run(self, inputs: dict[str, torch.Tensor], stream: int) -> dict[str, torch.Tensor]:
        """Outputs of one execution on the CUDA stream `stream`; returns before it has finished.

        Short batches are padded to the engine's smallest; nothing else of size is copied.
        """
        count = max(len(tensor) for tensor in inputs.values())
        padded = self.pad(inputs)
        if self._plain is None:
            self._plain = self.context()
        outputs = self.bind(self._plain, padded)
        self.execute(self._plain, stream)
        return {name: tensor[:count] for name, tensor in outputs.items()}

    def pad(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Inputs in the engine's types, with their last row repeated up to its smallest batch.

        Views into other tensors (a timestep of the schedule) move to an address TensorRT takes.
        """
        found = {}
        for name in self.inputs:
            tensor = inputs[name].to(self.dtype(name)).contiguous()
            if name != "timestep" and len(tensor) > self.most:
                raise UserError(
                    f"a batch of {len(tensor)} rows is too large for the engine of {self.graph}",
                    f"rows {self.least} to {self.most}", "an engine for this batch",
                    "backend.max_batch_size=IMAGES",
                )  # fmt: skip
            short = 0 if name == "timestep" else self.least - len(tensor)
            if short > 0:
                tensor = torch.cat([tensor, tensor[-1:].expand(short, *tensor.shape[1:])])
            found[name] = tensor.clone() if tensor.data_ptr() % ALIGNMENT else tensor
        return found

    def bind(self, context: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Point the context at the inputs and at new outputs of the shapes they imply."""
        for name, tensor in inputs.items():
            if not context.set_input_shape(name, tuple(tensor.shape)):
                raise self._failed(f"TensorRT refuses {name} of shape {tuple(tensor.shape)}")
            self._place(context, name, tensor)
        device = next(iter(inputs.values())).device
        outputs = {}
        for name in self.outputs:
            shape = tuple(context.get_tensor_shape(name))
            outputs[name] = torch.empty(shape, dtype=self.dtype(name), device=device)
            self._place(context, name, outputs[name])
        return outputs

    def _place(self, context: Any, name: str, tensor: torch.Tensor) -> None:
        if not context.set_tensor_address(name, tensor.data_ptr()):
            raise self._failed(f"TensorRT refuses the address of {name}, {tensor.data_ptr():#x}")

    def execute(self, context: Any, stream: int) -> None:
        """Enqueue one execution."""
        if not context.execute_async_v3(stream):
            raise self._failed("the execution failed")

    def keep_cache(self, path: Path) -> None:
        """Write what RTX has compiled for this GPU."""
        if self._cache is None:
            return
        temporary = path.with_suffix(f".{os.getpid()}")  # workers on equal GPUs share the file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(memoryview(self._cache.serialize()))
            temporary.replace(path)
        except OSError as error:  # a measurement is worth more than its cache
            terminal.tell(f"TensorRT-RTX's compiled kernels are not kept: {error}")

    def load_cache(self, path: Path) -> None:
        """Prepare RTX's cache of compiled kernels; TensorRT drops one that does not fit."""
        self._cache = self.engine.create_runtime_config().create_runtime_cache()
        if path.is_file():
            self._cache.deserialize(path.read_bytes())

    def close(self) -> None:
        """Free contexts, then the engine, then the runtime."""
        self._plain = self._memory = self._cache = self.engine = self._runtime = None

    def _deserialize(self) -> Any:
        with (self.folder / engines.ENGINE).open("rb") as file, \
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:  # fmt: skip
            if self.flavor is Flavor.rtx:
                validity, bits = self._runtime.get_engine_validity(data)
                if validity == self._trt.EngineValidity.INVALID:
                    raise self._failed(f"TensorRT-RTX calls the engine invalid: {self._why(bits)}")
            found = self._runtime.deserialize_cuda_engine(data)
        if found is None:
            raise self._failed("TensorRT cannot read the engine")
        return found

    def _why(self, bits: int) -> str:
        members = self._trt.EngineInvalidityDiagnostics.__members__
        named = [name for name, value in members.items() if int(value) & bits]
        return " ".join(named) or "no reason given"

    def _refit(self) -> None:
        """Put the weights of the graph into an engine that was stored without them."""
        kind, key = self.manifest["settings"]["source"]
        source = store.find(kind, key)
        if source is None:
            raise UserError(
                "the engine has no weights and its graph is gone", f"{kind} {key}",
                "the graph it was built from", REBUILD,
            )  # fmt: skip
        refitter = self._trt.Refitter(self.engine, self._log)
        parser = self._trt.OnnxParserRefitter(refitter, self._log)
        read = parser.refit_from_file(str(source.path / graphs.MODEL))
        if not read or not refitter.refit_cuda_engine():
            raise self._failed("the weights do not fit the engine")

    def _runtime_config(self, strategy: Any, cuda_graph: bool) -> Any:
        trt, runtime_config = self._trt, self.engine.create_runtime_config()
        runtime_config.set_execution_context_allocation_strategy(strategy)
        # Kernels for a new shape are compiled at once, in the warm-up, not beside the clock.
        runtime_config.dynamic_shapes_kernel_specialization_strategy = (
            trt.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        if cuda_graph:
            runtime_config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        if self._cache is not None:
            runtime_config.set_runtime_cache(self._cache)
        return runtime_config

    def _failed(self, what: str) -> SdxlError:
        said = "; ".join(self._log.errors[-3:]) or "no reason given"
        return SdxlError(what, said, None, REBUILD)


class Recorded:
    """An execution at one batch size, recorded once and replayed: one launch in place of hundreds.

    It has buffers of its own, so a call copies its inputs (kilobytes) and its outputs are valid
    until the next call.
    """

    def __init__(self, engine: Engine, inputs: dict[str, torch.Tensor], stream: Any) -> None:
        self._engine, self._stream = engine, stream
        self._inputs = {name: tensor.clone() for name, tensor in inputs.items()}
        self._context = engine.context(cuda_graph=True)
        self._outputs = engine.bind(self._context, self._inputs)
        # The first execution at a shape prepares things that must not be recorded.
        engine.execute(self._context, stream.cuda_stream)
        stream.synchronize()
        self._graph: Any = None
        if engine.flavor is Flavor.tensorrt:
            self._graph = torch.cuda.CUDAGraph()
            # LoadGen's threads may allocate meanwhile; only this thread is watched.
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                engine.execute(self._context, stream.cuda_stream)

    def __call__(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for name, tensor in inputs.items():
            self._inputs[name].copy_(tensor)
        if self._graph is None:
            self._engine.execute(self._context, self._stream.cuda_stream)
        else:
            self._graph.replay()
        return self._outputs
