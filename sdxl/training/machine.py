"""What a training runs on: processes, precision, compiler, the order in which sums are added."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import deterministic

from sdxl.config.choices import Device, DType
from sdxl.config.schema.train import Training
from sdxl.core.errors import SdxlError, UserError
from sdxl.model.components import torch_device
from sdxl.training import launch

T = TypeVar("T")
PATIENCE = timedelta(days=1)
"""How long a process waits for the others: an evaluation by one of them takes an hour."""

_LOST = re.compile(r"gloo|NCCL|connection (was )?(reset|closed|refused)|broken pipe", re.IGNORECASE)
"""What libraries say where a process that trained along does not answer."""

_asked = Device.auto


def use(device: Device, plan: bool = False) -> None:
    """Compute on this device from now on; on GPUs, on the one of this process's own.

    Comes before anything is put on a device; a plan puts nothing there, and needs none. Raises
    `UserError` where it is absent, or where tasks know nothing of each other.
    """
    global _asked
    launch.settle()
    if plan:
        return
    _asked = device
    if torch_device(device).type == "cuda" and "LOCAL_RANK" in os.environ:
        # A task may see its own GPU only, and is told its number among the node's tasks.
        own = int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count()
        os.environ["LOCAL_RANK"] = str(own)
        torch.cuda.set_device(own)


def _state() -> Any:
    """Who trains together, and where; several processes on CUDA, or else on CPUs."""
    from accelerate.state import AcceleratorState, DistributedType, PartialState
    from accelerate.utils import parse_flag_from_env

    world = int(os.environ.get("WORLD_SIZE", "1"))
    kind = torch_device(_asked).type
    if _asked is Device.auto and world > 1 and kind != "cuda":
        kind = "cpu"
    if parse_flag_from_env("ACCELERATE_USE_CPU"):
        kind = "cpu"
    made = PartialState._shared_state
    if made and made["distributed_type"] is DistributedType.NO and made["device"].type != kind:
        AcceleratorState._reset_state(reset_partial_state=True)  # an earlier job's device
    state = PartialState(cpu=kind == "cpu", timeout=PATIENCE)
    if (state.num_processes, state.device.type) != (world, kind):
        raise UserError(
            "the processes cannot train together as they were started",
            f"WORLD_SIZE={world} on {kind}: {state.num_processes} on {state.device.type}",
            "torchrun, srun or submitit; CUDA or CPUs, one kind in a command",
            "torchrun --nproc-per-node N train.py ..." if _asked is Device.auto
            else "model.device=auto",
        )  # fmt: skip
    if world > 1 and kind == "cuda":
        _refuse_shared(int(state.process_index), world)
    return state


@cache
def _refuse_shared(rank: int, world: int) -> None:
    """Raise `UserError`, in all processes, where two of them are on one GPU, which ends NCCL.

    They tell each other by the group's store: NCCL's first message would fail.
    """
    store = torch.distributed.distributed_c10d._get_default_store()
    own = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
    store.set(f"gpu/{rank}", f"{socket.gethostname()} {own}")
    each = [store.get(f"gpu/{number}").decode() for number in range(world)]
    if len(gpus := set(each)) < world:
        fewest = min(Counter(gpu.split()[0] for gpu in gpus).values())
        raise UserError(
            "several processes would train on one GPU", f"processes: {world}, GPUs: {len(gpus)}",
            "a GPU for each process", f"torchrun --nproc-per-node {fewest} train.py ...",
        )  # fmt: skip


def processes() -> int:
    """How many processes train together; the first call makes them known to each other."""
    return int(_state().num_processes)


def rank() -> int:
    """The number of this process among them."""
    return int(_state().process_index)


def meet() -> None:
    """Return when all processes have come so far."""
    _state().wait_for_everyone()


def agreed(value: T) -> T:
    """The first process's value, in all of them."""
    from accelerate.utils import broadcast_object_list

    _state()
    found: list[T] = broadcast_object_list([value])
    return found[0]


def by_first(work: Callable[[], T]) -> T:
    """What `work`, which the first process alone does, returns, in all of them.

    What it raises, all raise: the others would wait for a process that has gone on, or has ended.
    """
    found: list[T] = []
    failed: Exception | None = None
    if rank() == 0:
        try:
            found.append(work())
        except Exception as error:
            failed = error
    found, failed = agreed((found, failed))
    if failed:
        raise failed
    return found[0]


def gathered(value: T) -> list[T]:
    """Every process's value, in the order of their numbers."""
    from accelerate.utils import gather_object

    _state()
    found: list[T] = gather_object([value])
    return found


def check(settings: Training) -> None:
    """Raise `UserError` where these processes, or this machine, cannot do what is asked."""
    if settings.batch % (processes() * settings.accumulate):
        parts = f" and train.accumulate={settings.accumulate}" if settings.accumulate > 1 else ""
        raise UserError(
            "the batch does not divide among the processes",
            f"train.batch={settings.batch}, {processes()} processes{parts}",
            "a multiple of the number of processes" + (" times the parts" if parts else ""),
        )
    cxx = os.environ.get("CXX", "g++")
    if settings.compile and _state().device.type == "cpu" and not shutil.which(cxx):
        raise UserError(
            "torch.compile needs a C++ compiler", f"train.compile=true, no {cxx}",
            "g++, or another one that CXX names", "train.compile=false",
        )  # fmt: skip


def accelerator(settings: Training) -> Any:
    """Processes, precision and compiler as the settings say; raises what `check` raises."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    check(settings)
    atexit.unregister(leave)
    AcceleratorState._reset_state()  # an earlier stage of this process had settings of its own
    assert settings.arithmetic is not DType.fp16, "it needs loss scaling"
    mixed = "bf16" if settings.arithmetic is DType.bf16 else "no"
    return Accelerator(
        cpu=_state().device.type == "cpu", mixed_precision=mixed,
        dynamo_backend="inductor" if settings.compile else "no",
    )  # fmt: skip


def release(accelerator: Any) -> None:
    """All processes have come so far, and none holds the distributed model; another may follow.

    The model has to go before its process group: as the last that holds it, the group would wait
    with the interpreter's lock for gloo's threads, and they for the lock, to free the tensors of
    the last reduction (pytorch/pytorch#56297).
    """
    accelerator.wait_for_everyone()
    accelerator.free_memory()
    atexit.register(leave)


@contextmanager
def loss_told() -> Iterator[None]:
    """A process of several that is gone becomes an `SdxlError` in the others."""
    try:
        yield
    except RuntimeError as error:
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count < 2 or not _LOST.search(said := str(error)):
            raise
        raise SdxlError(
            "another process of this training is gone", said.partition(". This is")[0][:300],
            f"{count} processes until the end: the log of the one that is gone says why",
            "the same command again, which goes on from the last checkpoint",
        ) from error  # fmt: skip


def leave() -> None:
    """End the process group, if there is one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def one_order(device: torch.device) -> Iterator[None]:
    """On a CPU sums are added in one order; compiled, threads would add an embedding's gradient
    as they come, and no two trainings would be equal."""
    before = torch.are_deterministic_algorithms_enabled()
    memory: Any = deterministic
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(before or device.type == "cpu")
    memory.fill_uninitialized_memory = filled and before
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        memory.fill_uninitialized_memory = filled


def plain_attention(module: torch.nn.Module, device: torch.device, arithmetic: DType) -> None:
    """In bf16 on a CPU make a UNet's attention products and a softmax: fused, it is slower there.

    In fp32 the fused one is faster, by a third at 1,024 tokens, and keeps no scores.
    """
    if device.type != "cpu" or arithmetic is not DType.bf16:
        return
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    for layer in module.modules():
        if type(getattr(layer, "processor", None)) is AttnProcessor2_0:
            layer.set_processor(AttnProcessor())  # type: ignore[operator]


def mean(accelerator: Any, parts: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """The losses over the whole batch, from those of its parts."""
    names: Sequence[str] = sorted(parts[0])
    each = [torch.stack([part[name].detach().float() for name in names]) for part in parts]
    stacked = each[0] if len(each) == 1 else torch.stack(each).mean(0)
    return dict(zip(names, accelerator.reduce(stacked, "mean").tolist(), strict=True))


def part(count: int, device: torch.device) -> float:
    """What this process's mean over `count` things weighs, so that the processes' mean is over all.

    1 in one process.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 1.0
    total = torch.tensor(float(count), device=device)
    torch.distributed.all_reduce(total)
    return count * torch.distributed.get_world_size() / max(1.0, float(total))


def any_process(accelerator: Any, here: bool) -> bool:
    """Whether it is so in any process: all of them stop after the same step."""
    return bool(accelerator.reduce(torch.tensor(float(here), device=accelerator.device), "max"))
