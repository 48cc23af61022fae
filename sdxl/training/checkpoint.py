"""All that a training needs to go on, in one safetensors file: no pickle, never half written."""

from __future__ import annotations

import dataclasses
import json
import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sdxl.config import words
from sdxl.config.content_key import plain
from sdxl.config.schema.train import Lora
from sdxl.core import json_file
from sdxl.core.errors import SdxlError, UserError
from sdxl.training import machine

_MOMENTS = ("exp_avg", "exp_avg_sq")
_BEFORE = {f.name: plain(f.default) for f in dataclasses.fields(Lora) if f.metadata.get("added")}
"""What a checkpoint from before a setting was made with."""
_UNTOLD = ("unconditional", "timesteps", "parts", "schedule")
"""What older checkpoints do not say of their data: they go on as they did."""

_DECIDED_BY = {
    "checkpoint": "model and quant",
    "data": "train.shards and model",
    "look": "this version",
    "made_up": "this version",
    "model": "model",
    "parts": "model",
    "paths": "train.captions, model, model.guidance and model.negative_prompt",
    "schedule": "the model's scheduler_config.json",
    "timesteps": "model.steps and scheduler",
    "unconditional": "model.negative_prompt",
    "vae": "train=vae of this run",
}
"""What a training goes on with that is no setting of its own."""


def save(
    path: Path, step: int, module: nn.Module, average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer, settings: dict[str, Any],
) -> None:  # fmt: skip
    """Weights, their average, the optimizer's moments and the number of steps done."""
    tensors = {f"model/{k}": v for k, v in _state(module).items()}
    tensors |= {f"average/{k}": v for k, v in average.items()}
    for name, parameter in module.named_parameters():
        state = optimizer.state.get(parameter)
        if state:
            tensors |= {f"{moment}/{name}": state[moment] for moment in _MOMENTS}
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, temporary, {"step": str(step), "settings": json.dumps(settings)})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # half of one, on a full disk


def room_needed(path: Path, module: nn.Module, averaged: bool, restart: bool) -> int:
    """Free bytes that a training takes: for its checkpoint, and the networks left beside it.

    One that goes on replaces both, one at a time; one begun anew removes its checkpoint first.
    """
    moved = sum(parameter.nbytes for _, parameter in trained(module))
    state = sum(value.nbytes for value in _state(module).values())
    own, old = state + moved * (len(_MOMENTS) + averaged), 0
    if path.is_file():
        if not restart:
            return own  # the larger of the two
        old = path.stat().st_size
    return max(moved, own + moved - old)


def load(
    path: Path, module: nn.Module, average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer, settings: dict[str, Any],
) -> int:  # fmt: skip
    """Restore what `save` wrote; returns the number of steps done."""
    refuse_others(path, settings)
    with _opened(path) as file:
        step = _step(file)
        names = set(file.keys())
        state = {k: file.get_tensor(f"model/{k}") for k in _state(module)}
        module.load_state_dict(state, strict=False)
        for name, value in average.items():
            value.copy_(file.get_tensor(f"average/{name}"))
        for name, parameter in module.named_parameters():
            if f"exp_avg/{name}" in names:
                optimizer.state[parameter] = {
                    "step": torch.tensor(float(step), device=parameter.device),
                    **{m: file.get_tensor(f"{m}/{name}").to(parameter.device) for m in _MOMENTS},
                }
    return step


def trained(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that move; the others are those of the model that the training began with."""
    return ((name, p) for name, p in module.named_parameters() if p.requires_grad)


def _state(module: nn.Module) -> dict[str, Tensor]:
    """What a training changes: parameters that move, and buffers."""
    still = {name for name, p in module.named_parameters() if not p.requires_grad}
    return {name: v for name, v in module.state_dict().items() if name not in still}


def refuse_others(path: Path, settings: dict[str, Any]) -> None:
    """Raise `UserError` if the checkpoint was made with other settings."""
    with _opened(path) as file:
        found = dict(json_file.parse(file.metadata()["settings"]))
    untold = {name: settings[name] for name in _UNTOLD if name in settings}
    found = _BEFORE | untold | found
    if other := [k for k in settings if found.get(k) != settings[k]]:
        raise UserError(
            f"{path} was made with other settings: {' '.join(other)}",
            " ".join(_told(k, settings[k], found.get(k)) for k in other),
            " ".join(_told(k, found.get(k), settings[k]) for k in other),
            "train.restart=true, or train.run=ANOTHER_NAME",
        )


def _told(name: str, value: Any, other: Any) -> str:
    """A setting as it is typed; of what is none, where it differs, and what decides it."""
    if name not in _DECIDED_BY:
        return words.typed(name if name == "seed" else f"train.{name}", value)
    if isinstance(value, dict) and isinstance(other, dict):
        value = {each: value[each] for each in value if value[each] != other.get(each)}
    return f"{name} {textwrap.shorten(str(value), 80, placeholder=' ...')} ({_DECIDED_BY[name]})"


def averaged(path: Path) -> dict[str, Tensor]:
    """The averaged weights of a checkpoint."""
    with _opened(path) as file:
        names = [k for k in file.keys() if k.startswith("average/")]  # noqa: SIM118
        return {name.removeprefix("average/"): file.get_tensor(name) for name in names}


def steps_done(path: Path) -> int:
    """How many steps a checkpoint holds; 0 if there is none."""
    if not path.is_file():
        return 0
    with _opened(path) as file:
        return _step(file)


def alike(done: int, folder: Path) -> int:
    """The steps that a checkpoint holds; raises `UserError` where processes found others."""
    each = machine.gathered(done)
    if len(set(each)) > 1:
        said = ", ".join(f"process {number}: {found:,}" for number, found in enumerate(each))
        raise UserError(
            f"the processes do not see the same checkpoint in {folder}", f"{said} steps done",
            "one folder, on a disk that all nodes share", "SDXL_STORE=SHARED_FOLDER torchrun ...",
        )  # fmt: skip
    return done


def _step(file: Any) -> int:
    step = int(file.metadata()["step"])
    if step < 0:
        raise ValueError(f"step {step}")
    return step


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file; whatever is wrong with what is read from it is a `UserError` that names it."""
    try:
        with safe_open(path, "pt") as file:
            yield file
    except SdxlError:
        raise
    except (
        *(OSError, SafetensorError, KeyError, ValueError, TypeError),
        *(OverflowError, RuntimeError),  # a step too large for a clock; a tensor of another shape
    ) as error:
        raise UserError(
            f"{path} is no whole checkpoint of this training",
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            "what an earlier run of the same command left",
            "train.restart=true, or train.run=ANOTHER_NAME",
        ) from error
