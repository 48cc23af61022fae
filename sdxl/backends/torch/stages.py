"""PyTorch: eager or compiled, on CPU, CUDA or MPS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sdxl.backends.torch import attention, dtypes, loop, real, rules, simulated, tables
from sdxl.backends.torch import compile as compiler
from sdxl.backends.torch.config import Attention, Config, Execution, Graphs, Loop
from sdxl.backends.torch.timings import Timings
from sdxl.config import schema, shortcuts
from sdxl.core.errors import ConfigError
from sdxl.model import guidance, images, networks, schedulers, step_table
from sdxl.model.components import Source, check_half, torch_device, torch_dtype, unscale
from sdxl.model.parts import Kept, Parts
from sdxl.model.sources import open_source

if TYPE_CHECKING:
    import numpy as np

    from sdxl.core.types import Embeddings, TokenIds


class TorchStages:
    """`Stages` on diffusers' and transformers' own modules."""

    def __init__(self, config: schema.Config, artifacts: dict[str, Path]) -> None:
        backend = config.backend
        assert isinstance(backend, Config)
        if backend.threads:
            torch.set_num_threads(backend.threads)
        self.settings, self.precision = backend, config.precision
        self.device = torch_device(config.model.device)
        source = open_source(config.model, config.seed)
        self.modules: dict[str, Any] = {}
        self.dtypes = dtypes.kept(config) if config.precision.auto else {}
        """How `precision=auto` chose."""
        self.why = ""
        """Why the sampler's loop draws though the static one was asked for."""
        self.choice: Any = None
        self._load(config, source, artifacts.get("unet"))
        self.attention = self._attention()
        self._unet, self._decode = self.modules["unet"], self.modules["vae"].decode
        schedule = schedulers.chosen(config, source)
        self.calls = guidance.steps_of(config.shortcut, config.model, source, schedule.calls)
        """What each UNet call of a batch computes."""
        self.parts: Parts | None = None
        self.compiled = self._compile(config.shortcut)
        self.overlap = backend.overlap
        """Whether `decode` may run beside the next batch's loop: it has a stream of its own."""
        self._aside = torch.cuda.Stream(self.device) if backend.overlap else None
        self.steps = schedule.calls
        """UNet calls of a batch."""
        self.loop = self.denoise = self._loop(config, schedule)
        """The whole denoise loop; None: the sampler's own."""

    def _load(self, config: schema.Config, source: Source, quantized: Path | None) -> None:
        """The networks in their dtypes and memory format; a quantized UNet from its checkpoint."""
        assert quantized or config.quant.format is schema.Format.none, "a quantized UNet, but which"
        self.quantization = config.quant.format.value if quantized else "none"
        wanted = {
            "text_encoder": config.precision.text_encoder,
            "text_encoder_2": config.precision.text_encoder,
            "unet": config.precision.unet,
            "vae": config.precision.vae,
        }
        for name, dtype in wanted.items():
            if name == "unet" and quantized:
                shapes = source.component(name, torch_dtype(dtype), torch.device("meta"))
                self._restore(shapes, quantized, torch_dtype(dtype))
            else:
                self.modules[name] = source.component(name, torch_dtype(dtype), self.device)
        check_half(self.modules["vae"])
        if self.settings.channels_last:
            for name in ("unet", "vae"):
                self.modules[name].to(memory_format=torch.channels_last)

    def _attention(self) -> attention.Choice | None:
        """Attention's kernels as asked, put into the networks; None: PyTorch's own."""
        if self.settings.attention is Attention.torch:
            return None
        chosen = [self.modules["unet"]]
        if not self.settings.overlap:  # PyTorch's choice is the process's, not a thread's
            chosen.append(self.modules["vae"])
        return attention.install(chosen, self.settings.attention, self.device)

    def _compile(self, shortcut: schema.Shortcut) -> compiler.Cache | None:
        """UNet and VAE through torch.compile, if asked."""
        mode = self.settings.compile.value
        if self.device.type == "cuda" or mode != "none":
            compiler.use_store()
        cache, early = None if mode == "none" else compiler.Cache(mode), self.attention is not None
        # 8-bit layers choose their kernels by timing: eager.
        unet = partial(cache.compile, "unet", early) if cache and self.choice is None else _as_it_is
        if shortcuts.parted(self.calls):
            self.parts = Parts(self._unet, shortcut, unet)
        else:
            self._unet = unet(self._unet)
        if cache:
            self._decode = cache.compile("vae", early, self._decode)
        return cache

    def _loop(self, config: schema.Config, schedule: schedulers.Schedule) -> Any:
        """The whole denoise loop, unless the sampler's own is to run."""
        kind, scale = self.settings.loop, config.model.guidance
        if kind is Loop.pipeline:
            return loop.Pipeline(self.modules, schedule, scale)
        plain = schedule.scheduler.config.get("prediction_type") == "epsilon"
        euler = plain and type(schedule.scheduler).__name__ == "EulerDiscreteScheduler"
        table = "" if euler or kind is Loop.scheduler else step_table.table_of(schedule)
        if kind is Loop.scheduler or (isinstance(table, str) and table):
            if problems := list(rules.of_schedule(self.settings, str(table))):
                raise ConfigError(problems)
            self.why = str(table)
            return None
        graphs = self.settings.graphs
        if graphs is Graphs.auto:
            theirs = self.settings.compile in rules.OWN_GRAPHS
            cuda = self.device.type == "cuda"
            graphs = Graphs.step if cuda and not theirs else Graphs.none
        short = None
        if config.shortcut.name != "none":
            short = loop.Short(self.calls, lambda *given: self.part(*given))

        def unet(*given: Any) -> torch.Tensor:
            return self.unet(*given)

        if not isinstance(table, str):
            noisy, where = schedule.noisy, self.device
            return tables.TableDenoiser(unet, table, noisy, scale, where, graphs, short)
        plan = schedule.scheduler, schedule.steps, scale
        return loop.Denoiser(unet, *plan, self.device, graphs, short)

    @contextmanager
    def eager(self) -> Iterator[None]:
        """The sampler's own loop over modules that are not compiled: what hooks can watch."""
        kept = self._unet, self._decode, self.denoise, self.parts
        self._unet, self._decode, self.denoise = (
            self.modules["unet"],
            self.modules["vae"].decode,
            None,
        )
        self.parts = self.parts and self.parts.eager()
        try:
            yield
        finally:
            self._unet, self._decode, self.denoise, self.parts = kept

    def _restore(self, shapes: Any, folder: Path, dtype: torch.dtype) -> None:
        """The quantized UNet from its checkpoint, to compute as asked."""
        self.parameters = sum(p.numel() for p in shapes.parameters())
        kind = self.settings.execution
        if kind is not Execution.simulated:
            kept = Timings() if kind is Execution.auto else None
            found = real.restore(shapes, folder, dtype, self.device, self.settings.fusion, kept)
            self.modules["unet"], self.choice = found
        else:
            self.modules["unet"] = simulated.restore(shapes, folder, dtype, self.device)

    def encode(self, ids: TokenIds) -> Embeddings:
        """Penultimate states of both encoders (N, 77, D), pooled output of the second (N, P)."""
        encoders = self.modules["text_encoder"], self.modules["text_encoder_2"]
        return networks.encode(*encoders, ids, self.modules["unet"].dtype)

    def unet(
        self, sample: torch.Tensor, timestep: torch.Tensor, embeddings: Embeddings
    ) -> torch.Tensor:
        """Predicted noise (N, 4, h, w)."""
        return networks.predict(self._unet, sample, timestep, embeddings)

    def part(
        self, step: shortcuts.Step, sample: torch.Tensor, timestep: torch.Tensor,
        embeddings: Embeddings, kept: Kept,
    ) -> torch.Tensor:  # fmt: skip
        """Predicted noise (N, 4, h, w) of a call under a shortcut."""
        if self.parts is None:
            return self.unet(sample, timestep, embeddings)
        return self.parts(step, sample, timestep, embeddings, kept)

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """uint8 images (B, H, W, 3) in host memory; raises `StageError` on NaN or Inf.

        With `overlap` nothing on the current stream is waited for: the latents must have arrived.
        """
        vae = self.modules["vae"]
        size = self.settings.decode_batch_size or len(latents)
        aside = torch.cuda.stream(self._aside) if self._aside else nullcontext()
        with torch.inference_mode(), aside:
            parts = []
            for chunk in latents.split(size):
                image = self._decode(unscale(chunk.to(vae.dtype), vae.config), return_dict=False)[0]
                parts.append(images.on_device(image))
            return images.to_host(parts)

    def describe(self) -> dict[str, Any]:
        """Device, dtypes, parameter counts and what was chosen."""
        return facts_of(self)

    def close(self) -> None:
        """Free the modules and the allocator's cache."""
        self.modules.clear()
        # Graphs and buffers with them.
        self.loop = self.denoise = self.parts = self._unet = self._decode = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def facts_of(stages: TorchStages) -> dict[str, Any]:
    """Device, dtypes, parameter counts of the components, loop, attention, kernels chosen."""
    cuda = stages.device.type == "cuda"
    executed = stages.choice.describe() if stages.choice else {}
    modules = stages.modules.items()
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in modules}
    if stages.choice:
        counts["unet"] = stages.parameters  # its 8-bit layers hold buffers
    return {
        "backend": "torch",
        "device": str(stages.device),
        "device_name": torch.cuda.get_device_name(stages.device) if cuda else stages.device.type,
        "compile": stages.settings.compile.value,
        "compile_cache": stages.compiled.describe() if stages.compiled else {},
        "loop": stages.loop.describe() if stages.loop else _shared_loop(stages),
        "by_shape": _by_shape(stages),
        "overlap": stages.overlap,
        "attention": stages.attention.describe() if stages.attention else {"wanted": "torch"},
        "quantization": stages.quantization,
        # 8-bit numbers in 16- or 32-bit arithmetic: quality counts, speed does not.
        "simulated": stages.quantization != "none"
        and not (executed.get("real_layers") or executed.get("timings")),
        "execution": executed,
        "threads": torch.get_num_threads(),
        "precision": {name: str(m.dtype).removeprefix("torch.") for name, m in modules},
        **({"dtypes": stages.dtypes} if stages.dtypes else {}),
        "parameters": counts,
    }


def _as_it_is(run: Any) -> Any:
    return run


def _shared_loop(stages: TorchStages) -> dict[str, str]:
    """The sampler's own loop; why, where another was asked for."""
    return {"kind": "scheduler", **({"because": stages.why} if stages.why else {})}


def _by_shape(stages: TorchStages) -> bool:
    """Whether a batch size is prepared when it first comes: captured, compiled or timed."""
    captures = getattr(stages.loop, "graphs", Graphs.none) is not Graphs.none
    tunes = stages.choice is not None and stages.device.type == "cuda"  # Triton's kernels
    return captures or tunes or stages.compiled is not None or stages.attention is not None
