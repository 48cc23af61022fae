"""What would make a run fail after minutes, found in milliseconds; imports no framework."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from sdxl.bench.mlperf.compliance import SAMPLED
from sdxl.config import folder_words, footprint
from sdxl.config.plugins import backend_of, quality_of
from sdxl.config.schema import (
    KEEP_IMAGES,
    Compliance,
    Config,
    LoadCurve,
    Mode,
    SdxlModel,
)
from sdxl.core import disk, gpu, store
from sdxl.core.errors import Problem, UserError
from sdxl.model import weight_files

INSTALL = "python -m pip install -c constraints.txt -e ."
MODULES = {"mlperf_loadgen": "LoadGen, which measures", "psutil": "psutil, which counts memory"}
TORCH_MODULES = {"torch": "PyTorch", "diffusers": "diffusers", "transformers": "transformers"}
EXPORT_MODULES = {
    "onnx": "onnx",
    "onnxscript": "onnxscript, which the exporter needs",
    "onnxruntime": "ONNX Runtime",
}
LOGS_BYTES = disk.SMALL_BYTES
"""LoadGen's trace and the rest of a cell's folder."""
MOST_PROMPTS = 5000


def preflight(config: Config, out_dir: Path | None = None, runs: bool = True) -> list[Problem]:
    """Missing packages, weights, GPUs, and disk space for the record, pictures and artifacts.

    `runs`: the backend will run, not only have its artifacts made. Empty if nothing is known to be
    wrong. Takes milliseconds: nothing is imported, hashed or asked over a network, so a pass is no
    proof.
    """
    backend = backend_of(config)
    graphs = backend.loads in ("graphs", "engines")
    wanted = dict(MODULES)
    if backend.needs_torch:
        wanted |= TORCH_MODULES
    if graphs:
        wanted |= EXPORT_MODULES
    problems = [
        Problem(f"{what} is not installed", f"no module `{name}`", "the tested set", INSTALL)
        for name, what in wanted.items()
        if not installed(name)
    ]
    problems += [*_weights(config), *_trace(config)]
    if backend.needs_torch or graphs:
        problems += _scheduler(config)
    if runs and backend.needs_torch:
        problems += _devices(config)
    if quality := quality_of(config):
        problems += quality.missing(config)
    if backend.form:
        problems += backend.form.missing(config)
    if runs:
        problems += [each for each in backend.missing(config) if each not in problems]
    if out_dir:
        problems += disk.room(out_dir, output_bytes(config), "hydra.run.dir=FOLDER")
    needed = footprint.graph_bytes(config) + footprint.checkpoint_bytes(config)
    problems += disk.room(store.root(), needed or disk.NOTES_BYTES, disk.STORE_FIX)
    return problems


def installed(module: str) -> bool:
    """Can the module be found, without importing it?"""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def output_bytes(config: Config) -> int:
    """What a cell may write: accuracy mode keeps every picture, and a submission's log holds each
    one as hexadecimal besides.
    """
    picture = 3 * config.model.height * config.model.width
    prompts = config.limit or MOST_PROMPTS
    if config.mode is Mode.accuracy:
        return LOGS_BYTES + (3 if config.submission else 1) * picture * prompts
    logged = 2 * SAMPLED * picture if config.compliance is Compliance.test01 else 0
    return LOGS_BYTES + logged + picture * min(config.quality.keep_images or KEEP_IMAGES, prompts)


def _devices(config: Config) -> list[Problem]:
    """Places of `backend.devices` past the GPUs that may be used: workers there would be on CPUs.

    Where there are no GPUs at all, or none is wanted, the places are workers on the processor.
    """
    wanted = config.backend.devices
    # ONNX Runtime and OpenVINO choose by a setting of their own.
    own = (getattr(config.backend, name, None) for name in ("provider", "device_name"))
    on_cpu = "cpu" in (config.model.device, *own)
    if on_cpu or not wanted:
        return []
    there = gpu.names()
    if not there or max(wanted) < len(there):
        return []
    listed = (f"{n}: GPU {place} {name}".strip() for n, (place, name) in enumerate(there.items()))
    places = ",".join(map(str, range(min(len(wanted), len(there)))))
    return [
        Problem(
            "`backend.devices` names GPUs that are not there",
            str(wanted),
            f"places among those that may be used: {', '.join(listed)}; or model.device=cpu",
            f"backend.devices=[{places}]",
        )
    ]


def _scheduler(config: Config) -> list[Problem]:
    """The package of DPM++ SDE, whether it is asked for by name or is the folder's own."""
    name = config.scheduler.name
    if name == "auto":
        name = folder_words.word(config.model, folder_words.SCHEDULER, "_class_name")
    if name not in ("dpmpp_sde", "DPMSolverSDEScheduler") or installed("torchsde"):
        return []
    return [
        Problem(
            "DPM++ SDE needs torchsde, which is not installed",
            "no module `torchsde`",
            "the package, or another scheduler",
            f"{INSTALL[:-1]}'.[sde]'   # or scheduler=dpmpp_2m",
        )
    ]


def _trace(config: Config) -> list[Problem]:
    """Arrivals of a load curve that cannot be replayed."""
    name = config.scenario.trace if isinstance(config.scenario, LoadCurve) else None
    if name is None:
        return []
    from sdxl.bench.arrivals import read_trace

    try:
        read_trace(store.resolve(name))
    except UserError as error:
        return error.problems
    return []


def _weights(config: Config) -> list[Problem]:
    """Local weights that are not there, where no hub could help out."""
    model = config.model
    if not isinstance(model, SdxlModel):
        return []
    path = store.resolve(model.path)
    folders = [path] if path.exists() else [path, store.root() / "sdxl"]
    if path.is_file():
        return []
    for folder in folders:
        if (folder / "checkpoint_pipe").is_dir():
            return _without_file(model, folder / "checkpoint_pipe")
        if (folder / "model_index.json").is_file():
            return _without_file(model, folder)
    if not path.exists() and not model.path.startswith(("store:", "/", ".", "~")):
        return []  # a name on the hub: only the loader knows whether its cache has it
    return [
        Problem(
            "there is no folder or file with SDXL's weights",
            str(path),
            "a diffusers folder, the MLCommons layout, or a .safetensors file",
            "python -m sdxl download sdxl",
        )
    ]


def _without_file(model: SdxlModel, folder: Path) -> list[Problem]:
    """Components of a local folder that have no file of weights to read, or not all of one."""
    lacking, others = {}, set()
    for name in ("text_encoder", "text_encoder_2", "unet", "vae"):
        if not (folder / name).is_dir() or getattr(model, name, None):
            continue
        names = [file.name for file in (folder / name).iterdir()]
        found = weight_files.choose(names, model.variant)
        if not found.names or found.missing:
            lacking[name] = ", ".join(found.missing) or weight_files.other_kinds(folder / name)
            others |= set(weight_files.variants(names))
    if not lacking:
        return []
    kind = f"file of the variant {model.variant}" if model.variant else "plain file"
    return [
        Problem(
            f"there is no whole {kind} of {', '.join(lacking)}",
            "; ".join(filter(None, lacking.values())) or str(folder),
            "*.safetensors in the folder of each component",
            "   # or ".join(f"model.variant={each}" for each in sorted(others - {model.variant}))
            or "model.path=FOLDER   # a whole model",
        )
    ]
