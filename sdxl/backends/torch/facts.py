"""What the torch backend says of itself in a record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sdxl.backends.torch.stages import Graphs

if TYPE_CHECKING:
    from sdxl.backends.torch.stages import TorchStages


def of(stages: TorchStages) -> dict[str, Any]:
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
        "loop": stages.loop.describe() if stages.loop else {"kind": "scheduler"},
        "by_shape": _by_shape(stages),
        "overlap": stages.overlap,
        "attention": stages.attention.describe() if stages.attention else {"wanted": "torch"},
        "quantization": stages.quantization,
        # 8-bit numbers in 16- or 32-bit arithmetic: quality counts, speed does not.
        "simulated": stages.quantization != "none" and not executed.get("real_layers"),
        "execution": executed,
        "threads": torch.get_num_threads(),
        "precision": {name: str(m.dtype).removeprefix("torch.") for name, m in modules},
        "parameters": counts,
    }


def _by_shape(stages: TorchStages) -> bool:
    """Whether a batch size is prepared when it first comes: captured, compiled or timed."""
    captures = getattr(stages.loop, "graphs", Graphs.none) is not Graphs.none
    tunes = stages.choice is not None and stages.device.type == "cuda"  # Triton's kernels
    return captures or tunes or stages.compiled is not None or stages.attention is not None
