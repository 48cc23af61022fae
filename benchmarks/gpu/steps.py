"""The steps of the session in their order, each with its own limit; imports no framework.

Steps of one group run in one process, one after the other, so that a model is loaded once; a step
that fails or takes too long ends the process, and another goes on with the rest of the group.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

SESSION_S = 560.0
CALL_S = 595.0
"""A call that is longer is ended from outside."""
AROUND_S = 45.0
"""Of the device time left: what starting the machine and bringing results back take of it."""

FP8 = ("+rung=fp8", "quant_level=3")
INT8 = ("+rung=graphs", "quant_level=3")
BF16 = ("+rung=graphs_16bit",)
EAGER_VAE = "backend.compile=none"
"""Where the UNet alone differs from what the first call has measured: a minute less."""


@dataclass(frozen=True)
class Step:
    """One measurement: a function of this package, and the seconds that it may take.

    run: `module:function`, called with a `Context` and `given`; needs: a step that must not have
    failed; least_s: with less time left it is not begun; until_s: the second of a session of
    `SESSION_S` at which it is ended, so that what matters more has its time (0: none).
    """

    number: int
    name: str
    run: str
    group: str
    limit_s: float
    tells: str
    given: dict[str, Any] = field(default_factory=dict)
    needs: str = ""
    least_s: float = 10.0
    until_s: float = 0.0

    @property
    def file(self) -> str:
        """Its file in the output folder."""
        return f"{self.number:02}-{self.name}.json"


def _numbered(
    begin: int, *rows: tuple[Any, ...], until_s: dict[str, float] | None = None
) -> tuple[Step, ...]:
    made = (Step(number, *row) for number, row in enumerate(rows, begin))
    return tuple(replace(step, until_s=(until_s or {}).get(step.name, 0.0)) for step in made)


FIRST = _numbered(
    0,
    ("machine", "machine:run", "machine", 45,
     "versions, clocks and power, ceilings of copying and of bf16 products"),
    ("correct", "correct:run", "kernels", 70,
     "every kernel in FP8 against fp64 on one real shape, outputs poisoned", {"number": "fp8"}),
    ("correct-int8", "correct:run", "kernels", 50, "the same in INT8", {"number": "int8"}),
    ("linear", "candidates:linear", "kernels", 70,
     "products of FP8 and INT8: cuBLAS by tensor and by row, Triton's tiles, with their epilogues"),
    ("conv", "candidates:convolution", "kernels", 50,
     "convolutions: cuDNN in bf16, Triton's tiles"),
    ("attention", "candidates:attention", "kernels", 40,
     "attention: PyTorch's kernels, FlashAttention 3 in bf16 and FP8, Triton in FP8"),
    ("norms", "candidates:norms", "kernels", 20,
     "LayerNorm, GroupNorm, GEGLU and rounding against the memory's floor"),
    ("vae", "decoding:run", "vae", 40, "VAE eager, 4 and 8 pictures, and their bytes on the host",
     {"words": ("quant=none", "precision=bf16"), "batch": 8}),
    ("fp8", "model:run", "fp8", 190,
     "FP8 level 3, a graph per step, batches of 8: images/s, stages, memory, kernels chosen",
     {"words": FP8, "batch": 8}, "", 60),
    ("profile", "model:profile", "fp8", 40,
     "one replayed step under the profiler: the ten longest kernels",
     {"words": FP8, "batch": 8}, "fp8"),
    ("simulated", "model:against_simulated", "fp8", 75,
     "blocks and latents of the same FP8 checkpoint, executed against simulated",
     {"words": FP8, "batch": 8}, "fp8", 30),
    ("fp8-16", "model:batch", "fp8", 60, "FP8 level 3 in batches of 16",
     {"words": FP8, "batch": 16}, "fp8", 25),
    ("fp8-32", "model:batch", "fp8", 60, "FP8 level 3 in batches of 32",
     {"words": FP8, "batch": 32}, "fp8", 25),
    ("bf16", "model:run", "bf16", 170,
     "bf16, torch.compile and a graph per step, batches of 8: what 16 bits can do",
     {"words": BF16, "batch": 8}, "", 130),
    until_s={"machine": 40, "correct": 80, "correct-int8": 105, "linear": 145, "conv": 175,
             "attention": 195, "norms": 205, "vae": 230, "fp8": 415, "profile": 435,
             "simulated": 475, "fp8-16": 510, "fp8-32": 545},
)  # fmt: skip

SECOND = _numbered(
    20,
    ("int8", "model:run", "int8", 150, "INT8 level 3, a graph per step, batches of 8",
     {"words": (*INT8, EAGER_VAE), "batch": 8}, "", 60),
    ("fp8-level-4", "model:run", "level-4", 150, "FP8 with attention, batches of 8",
     {"words": ("+rung=fp8", "quant_level=4", EAGER_VAE), "batch": 8}, "", 60),
    ("fp8-level-2", "model:run", "level-2", 150, "FP8 convolutions and feed-forward alone",
     {"words": ("+rung=fp8", "quant_level=2", EAGER_VAE), "batch": 8}, "", 60),
    ("fp8-level-1", "model:run", "level-1", 150, "FP8 convolutions alone",
     {"words": ("+rung=fp8", "quant_level=1", EAGER_VAE), "batch": 8}, "", 60),
    ("tensorrt", "tensorrt:run", "tensorrt", 60,
     "in one line: can this machine's TensorRT load our engines?", {}, "", 5),
    ("steady", "scenarios:run", "steady", 270,
     "FP8 as Offline through run.py for 90 s: does the rate hold, power and clocks",
     {"words": (*FP8, "scenario=Offline", "scenario.min_duration_ms=90000", "limit=16"),
      "batch": 8}, "", 200),
    ("server", "scenarios:run", "server", 240, "FP8 as Server with the 20 s limit, 30 s of queries",
     {"words": (*FP8, "scenario=Server", "scenario.min_duration_ms=30000", "limit=16"),
      "batch": 8}, "", 170),
    ("singlestream", "scenarios:run", "singlestream", 180, "FP8 as SingleStream, 64 queries",
     {"words": (*FP8, "scenario=SingleStream", "scenario.min_duration_ms=1",
                "limit=8"), "batch": None}, "", 120),
)  # fmt: skip
"""Short ones first; a whole run is begun only where it can end: it loads, compiles the VAE, warms
up every batch size and opens LoadGen before its clock starts."""

EVERY = FIRST + SECOND


def chosen(names: list[str] | None, second: bool) -> list[Step]:
    """The steps to run: by name, or one of the two lists."""
    if not names:
        return list(SECOND if second else FIRST)
    known = {step.name: step for step in EVERY}
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"no such step: {', '.join(unknown)}; there are {', '.join(known)}")
    return [step for step in EVERY if step.name in names]


def deadline_of(left_s: float) -> float:
    """Seconds for a session where so much device time is left."""
    return max(0.0, min(CALL_S, left_s - AROUND_S))


def listed() -> str:
    """Both lists in words."""
    lines = []
    for title, steps in (("first call", FIRST), ("second call", SECOND)):
        lines.append(f"{title}: {sum(step.limit_s for step in steps):.0f} s at most")
        lines += [f"  {s.number:02} {s.name:13} {s.limit_s:4.0f} s  {s.tells}" for s in steps]
    return "\n".join(lines)
