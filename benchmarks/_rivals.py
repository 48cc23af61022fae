"""The rivals of `rivals_cpu.py`: each makes one UNet in fp32 a function of the same tensors."""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

Given = tuple[torch.Tensor, ...]
"""sample, timestep (1,), encoder_hidden_states, text_embeds, time_ids; all fp32."""
Call = Callable[..., torch.Tensor]
NAMES = ("sample", "timestep", "encoder_hidden_states", "text_embeds", "time_ids")


@dataclasses.dataclass
class Bench:
    """What every rival gets: the network, inputs that calibrate it, a folder, threads.

    shapes: makes the network without weights (on the meta device).
    """

    unet: Any
    shapes: Callable[[], Any]
    examples: Sequence[Given]
    folder: Path
    threads: int
    level: float
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    graphs: dict[str, Path] = dataclasses.field(default_factory=dict)

    def fresh(self) -> Any:
        """A copy of the network, its own to change."""
        return copy.deepcopy(self.unet)

    def used(self, *packages: str) -> None:
        """Note versions for the table; raises `ImportError` for what is not installed."""
        for name in packages:
            try:
                self.versions[name] = metadata.version(name)
            except metadata.PackageNotFoundError as error:
                raise ImportError(f"{name} is not installed") from error


def module(unet: Any, dtype: torch.dtype = torch.float32) -> Call:
    """A UNet of diffusers as a function; inputs and output cross over in its dtype."""

    def call(*given: torch.Tensor) -> torch.Tensor:
        sample, when, hidden, pooled, ids = (each.to(dtype) for each in given)
        added = {"text_embeds": pooled, "time_ids": ids}
        with torch.inference_mode():
            found = unet(sample, when.float(), hidden, added_cond_kwargs=added, return_dict=False)
        return found[0].float()

    return call


def last(unet: Any) -> Any:
    """Channels last, as our INT8 runs: convolutions of oneDNN reorder nothing."""
    return unet.to(memory_format=torch.channels_last)


def compiled(unet: Any) -> Call:
    return module(torch.compile(unet, dynamic=False))


def exported(bench: Bench) -> Path:
    """The graph that `export.py` makes of the network; once for all that read it."""
    if "fp32" not in bench.graphs:
        import types

        from sdxl.export import modules, onnx_graph

        unet = bench.fresh()
        unet.forward = types.MethodType(modules._unet, unet)
        given = bench.examples[0]
        rows = [torch.cat([each, each]) if each.ndim > 1 else each for each in given]
        free = tuple({} if name == "timestep" else {0: "rows"} for name in NAMES)
        source = modules.Exportable("unet", unet, NAMES, tuple(rows), free, ("noise",))
        folder = bench.folder / "fp32"
        folder.mkdir(exist_ok=True)
        onnx_graph.save(onnx_graph.build(source, 19), folder)
        bench.graphs["fp32"] = folder
    return bench.graphs["fp32"]


def checkpoint(bench: Bench) -> Path:
    """Our INT8 checkpoint of the network, its ranges those of the examples."""
    if "checkpoint" not in bench.graphs:
        from sdxl.config import schema
        from sdxl.quant import apply, calibrate, levels
        from sdxl.quant.collect import Collector

        unet = bench.fresh()
        collector = Collector(unet)
        collector.step(0, 500.0)  # one step: the largest of all examples counts
        for given in bench.examples:
            module(unet)(*given)
        tensors, channels = collector.end_of_prompt()
        collector.close()
        table = calibrate.empty(collector, {})
        table.timesteps = collector.timesteps
        table.add(tensors, channels)
        quant = schema.Quant("int8", schema.Format.int8, level=bench.level,
                             exclude=list(levels.NVIDIA_EXCLUDED))  # fmt: skip
        chosen = levels.select(levels.layers_of(unet), quant)
        folder = bench.folder / "checkpoint"
        folder.mkdir(exist_ok=True)
        apply.write(apply.quantize(unet, chosen, table, quant), chosen, quant, folder)
        bench.graphs["checkpoint"] = folder
    return bench.graphs["checkpoint"]


def quantized(bench: Bench, backend: str) -> Path:
    """The Q/DQ graph as that backend likes it."""
    if backend not in bench.graphs:
        from sdxl.export.qdq import artifact
        from sdxl.export.qdq.options import DEFAULTS

        folder = bench.folder / backend
        folder.mkdir(exist_ok=True)
        artifact.quantize(exported(bench), checkpoint(bench), folder, DEFAULTS[backend])
        bench.graphs[backend] = folder
    return bench.graphs[backend]


def ours(bench: Bench, auto: bool) -> Call:
    """`backend=torch backend.execution=real`, or `auto`."""
    from sdxl.backends.torch import real
    from sdxl.backends.torch.timings import Timings

    kept = Timings() if auto else None
    cpu = torch.device("cpu")
    unet, _ = real.restore(bench.shapes(), checkpoint(bench), torch.float32, cpu, timings=kept)
    return module(last(unet))


def ort(bench: Bench, eight: bool) -> Call:
    """`backend=ort`."""
    bench.used("onnxruntime")
    import onnxruntime

    from sdxl.backends.ort.session import EXACT

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = bench.threads
    options.log_severity_level = 3
    options.add_session_config_entry(*EXACT)
    folder = quantized(bench, "ort") if eight else exported(bench)
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    return lambda *given: torch.from_numpy(
        session.run(None, {n: each.numpy() for n, each in zip(NAMES, given, strict=True)})[0]
    )


def openvino(bench: Bench, graph: str, hint: str) -> Call:
    """`backend=openvino`; `graph`: fp32, ours in INT8, or NNCF's post-training quantization."""
    bench.used("openvino")
    from sdxl.backends.openvino import library

    core = library.load().Core()
    folder = quantized(bench, "openvino") if graph == "ours" else exported(bench)
    model = core.read_model(folder / "model.onnx")
    if graph == "nncf":
        bench.used("nncf")
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        import nncf

        data = nncf.Dataset([{n: each.numpy() for n, each in zip(NAMES, given, strict=True)}
                             for given in bench.examples])  # fmt: skip
        model = nncf.quantize(model, data, subset_size=len(bench.examples),
                              model_type=nncf.ModelType.TRANSFORMER)  # fmt: skip
    compiled_model = core.compile_model(
        model, "CPU", {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": bench.threads}
    )
    request = compiled_model.create_infer_request()

    def call(*given: torch.Tensor) -> torch.Tensor:
        request.infer([each.contiguous().numpy() for each in given], share_inputs=True)
        return torch.from_numpy(request.output_tensors[0].data.copy())

    return call


def sdnq(bench: Bench) -> Call:
    """SDNQ's INT8 with its quantized products."""
    bench.used("sdnq")
    from sdnq.quantizer import sdnq_post_load_quant

    unet = sdnq_post_load_quant(
        bench.fresh(), weights_dtype="int8", quant_conv=True, use_quantized_matmul=True,
        use_quantized_matmul_conv=True, add_skip_keys=False,
    )  # fmt: skip
    return module(unet)


def torchao(bench: Bench) -> Call:
    """torchao: INT8 weights, inputs in INT8 by their range of the moment; Linears."""
    bench.used("torchao")
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    unet = bench.fresh()
    quantize_(unet, Int8DynamicActivationInt8WeightConfig())
    return module(unet)


def quanto(bench: Bench) -> Call:
    """optimum-quanto: INT8 weights and inputs, ranges of the examples."""
    bench.used("optimum-quanto")
    from optimum.quanto import Calibration, freeze, qint8, quantize

    unet = bench.fresh()
    quantize(unet, weights=qint8, activations=qint8)
    with Calibration():
        for given in bench.examples:
            module(unet)(*given)
    freeze(unet)
    return module(unet)


def cpp(bench: Bench) -> Call:
    bench.used("stable-diffusion-cpp-python")
    raise ImportError(
        "stable-diffusion.cpp reads SDXL's own widths from one file and draws noise of its own: it "
        "takes neither this UNet nor these latents"
    )


RIVALS: dict[str, Callable[[Bench], Call]] = {
    "diffusers fp32": lambda bench: module(bench.unet),
    "diffusers fp32, channels last": lambda bench: module(last(bench.fresh())),
    "diffusers bf16": lambda bench: module(bench.fresh().to(torch.bfloat16), torch.bfloat16),
    "diffusers bf16, channels last": lambda bench: module(
        last(bench.fresh().to(torch.bfloat16)), torch.bfloat16
    ),
    "torch.compile fp32": lambda bench: compiled(bench.unet),
    "torch.compile fp32, channels last": lambda bench: compiled(last(bench.fresh())),
    "ort fp32": lambda bench: ort(bench, False),
    "openvino fp32": lambda bench: openvino(bench, "fp32", "f32"),
    "openvino bf16": lambda bench: openvino(bench, "fp32", "bf16"),
    "ours: torch INT8": lambda bench: ours(bench, False),
    "ours: torch INT8 auto": lambda bench: ours(bench, True),
    "ours: ort INT8": lambda bench: ort(bench, True),
    "ours: openvino INT8": lambda bench: openvino(bench, "ours", "f32"),
    "ours: openvino INT8, rest bf16": lambda bench: openvino(bench, "ours", "bf16"),
    "openvino NNCF INT8": lambda bench: openvino(bench, "nncf", "f32"),
    "openvino NNCF INT8, rest bf16": lambda bench: openvino(bench, "nncf", "bf16"),
    "SDNQ INT8": sdnq,
    "torchao INT8 dynamic": torchao,
    "optimum-quanto INT8": quanto,
    "stable-diffusion.cpp": cpp,
}
"""By name, the reference first."""
