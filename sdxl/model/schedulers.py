"""Which scheduler draws, at which timesteps, with whose noise; diffusers' classes do the rest."""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Sequence
from typing import Any

import torch

from sdxl.config import schema
from sdxl.config.schema import Rules
from sdxl.core.errors import UserError
from sdxl.model.architecture import SCHEDULER
from sdxl.model.components import Settings, Source

_EULER = "EulerDiscreteScheduler"
_PLAIN = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_SOLVER = {**_PLAIN, "use_lu_lambdas": False, "algorithm_type": "dpmsolver++", "solver_order": 2}

CHOICES: dict[str, tuple[str, Settings]] = {
    "euler": (_EULER, _PLAIN),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "ddim": ("DDIMScheduler", {"clip_sample": False, "thresholding": False}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", _SOLVER),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {**_SOLVER, "use_karras_sigmas": True}),
    "dpmpp_sde": ("DPMSolverSDEScheduler", _PLAIN),
    "unipc": ("UniPCMultistepScheduler", _PLAIN),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
    "heun": ("HeunDiscreteScheduler", _PLAIN),
    "edm": ("EDMDPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
}
"""By option of `scheduler=`: diffusers' class, and what makes it the scheduler of that name."""

OTHERS = (
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EDMEulerScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
)
"""Classes that a model may bring, beside those of `CHOICES`."""

_OWN_TIMESTEPS = ("LCMScheduler", "TCDScheduler")
"""They have a `timestep_spacing` in their settings and do not look at it."""
_ANCESTRAL = (
    "DDPMScheduler",
    "DPMSolverSDEScheduler",
    "EulerAncestralDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LCMScheduler",
)
_EMBEDDED = "time_cond_proj_dim"
_SETTINGS = {
    "prediction_type": "prediction_type",
    "spacing": "timestep_spacing",
    "original_steps": "original_inference_steps",
    "sigma_min": "sigma_min",
    "sigma_max": "sigma_max",
    "sigma_data": "sigma_data",
}
"""Our keys, by diffusers' names for them."""


def own(settings: Settings) -> Any:
    """A model's own scheduler from its `scheduler_config.json`; raises `UserError` by class."""
    name = settings.get("_class_name", _EULER)
    known = sorted({*OTHERS, *(each for each, _ in CHOICES.values())})
    if name not in known:
        raise UserError(
            f"the model's own scheduler cannot draw here: {name}",
            f"_class_name={name} in its scheduler_config.json",
            "one of " + " ".join(known),
            "scheduler=euler",
        )
    return _class(name).from_config(settings)


def chosen(config: schema.Config, source: Source) -> Schedule:
    """The scheduler that draws `config`'s pictures, at its number of steps.

    Raises `UserError` for what it cannot do, and under closed rules unless it is the benchmark's.
    """
    found = schedule_of(config.scheduler, config.model.steps, source)
    if config.rules is Rules.closed:
        _check_closed(found.scheduler)
    return found


def schedule_of(wanted: schema.Scheduler, steps: int, source: Source) -> Schedule:
    """The same whatever the rules, which are about measuring."""
    return Schedule(scheduler_of(wanted, source), steps, getattr(wanted, "eta", 0.0))


def scheduler_of(wanted: schema.Scheduler, source: Source) -> Any:
    """diffusers' scheduler as it is wanted, before any number of steps."""
    made = source.scheduler() if wanted.name == "auto" else _named(wanted.name, source)
    if changes := _changes(wanted, made):
        made = type(made).from_config(made.config, **changes)
    return made


def doubts(config: schema.Config, source: Source, made: Any) -> list[str]:
    """Where a preset, or a scheduler by name, does not go with what the weights' own files say."""
    settings, wanted = source.settings("scheduler"), config.scheduler
    theirs, ours = settings.get("_class_name", _EULER), type(made).__name__
    found: list[tuple[str, Any, Any]] = []
    if (asked := wanted.prediction_type) and asked.value != settings.get("prediction_type"):
        found.append(("prediction_type", asked.value, settings.get("prediction_type", "epsilon")))
    if ("EDM" in ours) != ("EDM" in theirs):
        found.append(("class", ours, theirs))
    borrowed = config.model.unet or getattr(config.model, "lora", None)
    if config.preset and not borrowed:  # else the few steps are not the folder's affair
        found.append(("class", ours, theirs))
        spacing = made.config.get("timestep_spacing") if ours not in _OWN_TIMESTEPS else None
        found.append(("timestep_spacing", spacing, settings.get("timestep_spacing")))
    asks = f"preset={config.preset}" if config.preset else f"scheduler={wanted.name}"
    told = [
        f"{asks} draws with {name} {one}; the weights' own scheduler_config.json says {other}"
        for name, one, other in dict.fromkeys(found)
        if one and other and one != other
    ]
    if config.preset == "lcm_4" and not borrowed and not source.configs["unet"].get(_EMBEDDED):
        told.append(
            f"{asks} is for weights distilled under guidance; their own unet/config.json "
            f"has no {_EMBEDDED}"
        )
    return told


class Schedule:
    """A scheduler at a number of steps; each batch begins with a fresh copy of it.

    scheduler: as it is before a batch; timesteps: of the UNet's calls, in their order (schedulers
    of second order call it twice a step); noisy: whether steps add noise.
    """

    def __init__(self, scheduler: Any, steps: int, eta: float = 0.0) -> None:
        self.scheduler, self.steps, self.eta = scheduler, steps, eta
        takes = inspect.signature(scheduler.step).parameters
        self.words = {"eta": eta} if "eta" in takes else {}
        self.seeded = "generator" in takes
        name, kind = type(scheduler).__name__, str(scheduler.config.get("algorithm_type", ""))
        self.noisy = name in _ANCESTRAL or kind.startswith("sde") or bool(self.words and eta)
        self.timesteps = [float(timestep) for timestep in self._ready(None).timesteps]

    @property
    def calls(self) -> int:
        """UNet calls of a batch."""
        return len(self.timesteps)

    def begin(self, device: torch.device, seeds: Sequence[int]) -> Walk:
        """What one batch draws with; `seeds` are those of its pictures' step noise."""
        scheduler = self._ready(device)
        if hasattr(scheduler, "noise_sampler_seed"):
            scheduler.noise_sampler_seed = list(seeds)
        words: Settings = dict(self.words)
        if self.noisy and self.seeded:
            words["generator"] = generators(seeds)
        return Walk(scheduler, words, self.noisy)

    def describe(self) -> Settings:
        """For the record: settings that a picture follows from, and the timesteps."""
        settings = self.scheduler.config
        names = ("prediction_type", "timestep_spacing", "algorithm_type", "use_karras_sigmas")
        return {
            **{name: settings[name] for name in names if settings.get(name)},
            **self.words,
            "noise": "each step, by seed and prompt" if self.noisy else "none",
            "timesteps": [round(timestep, 3) for timestep in self.timesteps],
        }

    def _ready(self, device: torch.device | None) -> Any:
        scheduler = copy.deepcopy(self.scheduler)
        try:
            scheduler.set_timesteps(self.steps, device=device)
        except (ValueError, IndexError, ZeroDivisionError) as error:
            raise UserError(
                f"{type(scheduler).__name__} cannot draw in {self.steps} steps",
                str(error).splitlines()[0],
                "a number of steps that its timesteps hold",
                "model.steps=N",
            ) from error
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)  # timesteps that are rounded may be there twice
        return scheduler


class Walk:
    """One batch's way through the timesteps."""

    def __init__(self, scheduler: Any, words: Settings, wide: bool) -> None:
        self.scheduler, self.words, self._wide = scheduler, words, wide
        self.timesteps = scheduler.timesteps
        self.start = scheduler.init_noise_sigma
        """Standard deviation of the first latents."""

    def scaled(self, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """The UNet's input (N, 4, h, w)."""
        found: torch.Tensor = self.scheduler.scale_model_input(latents, timestep)
        return found

    def step(
        self, predicted: torch.Tensor, timestep: torch.Tensor, latents: torch.Tensor
    ) -> torch.Tensor:
        """The next latents (B, 4, h, w), in the dtype of the given ones."""
        dtype = latents.dtype
        if self._wide:  # in 16 bits torch draws other noise, not the same one rounded
            predicted, latents = predicted.float(), latents.float()
        found = self.scheduler.step(predicted, timestep, latents, **self.words, return_dict=False)
        return found[0].to(dtype)


def seed_of(seed: int, row: int) -> int:
    """The seed of a picture's step noise; never that of its first latents."""
    digest = hashlib.sha256(f"{seed}/{row}/steps".encode()).digest()
    return int.from_bytes(digest[:7], "little")


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One for each picture, on the CPU: the same noise on every device and in every batch."""
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def _named(name: str, source: Source) -> Any:
    """A scheduler by our name, on the schedule that the model was trained with."""
    kind, fixed = CHOICES[name]
    settings = source.settings("scheduler")
    trained = ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps")
    usual: Settings = {each: SCHEDULER[each] for each in trained}
    if kind == "DDIMScheduler":
        usual["set_alpha_to_one"] = False  # as Stable Diffusion was trained
    made = _class(kind)
    takes = inspect.signature(made.__init__).parameters
    given = {**usual, **settings, **fixed}
    return made.from_config({k: v for k, v in given.items() if k in takes and v is not None})


def _changes(wanted: schema.Scheduler, made: Any) -> Settings:
    """What the command sets, by diffusers' names."""
    found = {}
    for ours, theirs in _SETTINGS.items():
        value = getattr(wanted, ours, None)
        if value is None:
            continue
        name = type(made).__name__
        if theirs not in made.config or (ours == "spacing" and name in _OWN_TIMESTEPS):
            raise UserError(
                f"`scheduler.{ours}` would be ignored: the model's own scheduler is {name}",
                f"scheduler=auto scheduler.{ours}={getattr(value, 'value', value)}",
                "a scheduler that takes it",
                f"scheduler=euler scheduler.{ours}=...",
            )
        found[theirs] = getattr(value, "value", value)
    return found


def _check_closed(made: Any) -> None:
    """Raise `UserError` unless pictures are drawn as MLPerf's closed division has it."""
    wanted = {**SCHEDULER, **_PLAIN, "rescale_betas_zero_snr": False}
    other = {k: made.config.get(k) for k, v in wanted.items() if made.config.get(k, v) != v}
    if type(made).__name__ != _EULER or other:
        told = " ".join(f"{key}={value}" for key, value in other.items())
        raise UserError(
            "the scheduler is fixed in MLPerf's closed division",
            f"{type(made).__name__} {told}".strip(),
            "the benchmark's Euler, or the open division",
            "rules=open",
        )


def _class(name: str) -> Any:
    """One of diffusers' classes; raises `UserError` where its library is absent."""
    import diffusers

    if name == "DPMSolverSDEScheduler" and not diffusers.utils.is_torchsde_available():
        raise UserError(
            "DPM++ SDE needs torchsde, which is not installed",
            "no module `torchsde`",
            "the package",
            "python -m pip install -c constraints.txt -e '.[sde]'",
        )
    return getattr(diffusers, name)
