"""One graph's engine as an artifact: content key, profile, build, facts."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sdxl.config import content_key, engines, graphs, rules_engines, sizes
from sdxl.config.engines import ENGINE, KIND, LAYERS, LOG, Flavor
from sdxl.config.schema import Config
from sdxl.core import environment, gpu, store
from sdxl.core.errors import ConfigError, SdxlError
from sdxl.core.progress import Report
from sdxl.core.store import Artifact
from sdxl.export.engine import layers, library, listen, timing
from sdxl.model import guidance

VERSION = 1
"""Bumped by hand when the same settings make another engine."""
SHOWN_ERRORS = 4


def get(config: Config, graph: str, source: Artifact, on_progress: Report) -> Artifact:
    """The engine of one graph, found in the store or built now from the `source` artifact.

    Build it in a process of its own: the whole network is in memory several times over.
    """
    described = _described(config, graph, source)

    def make(folder: Path) -> dict[str, Any]:
        made = build(source.path, folder, graph, config, on_progress)
        return {**made, "settings": {**described, **made["settings"]}}

    return store.get(
        KIND, _key(described, source), make, settings=described,
        parents=[source.manifest.key], allow=config.build,
        otherwise="first export.py with the same settings",
    )  # fmt: skip


def key(config: Config, graph: str, source: Artifact) -> str:
    """Content key over `settings` and the bytes of the graph and its weights."""
    return _key(_described(config, graph, source), source)


def _described(config: Config, graph: str, source: Artifact) -> dict[str, Any]:
    return {**settings(config, graph), "source": [source.manifest.kind, source.manifest.key]}


def _key(described: dict[str, Any], source: Artifact) -> str:
    hashes = {name: facts["sha256"] for name, facts in source.manifest.files.items()}
    return content_key.key(KIND, described, hashes)


def settings(config: Config, graph: str) -> dict[str, Any]:
    """Everything beside the graph that decides the engine.

    Raises `ConfigError` with all that this machine lacks to build it.
    """
    if problems := list(rules_engines.missing(config, run=False)):
        raise ConfigError(problems)
    wanted, flavor = engines.settings_of(config), engines.choose(config)
    found: dict[str, Any] = {
        "version": VERSION,
        "graph": graph,
        "flavor": flavor.value,
        "tensorrt": library.version(flavor),
        "host": engines.host(),
        "rows": list(engines.rows(config, graph, guidance.rows_of(config))),
        "builder_optimization_level": wanted.builder_optimization_level,
        "workspace_gib": wanted.workspace_gib,
        "tf32": wanted.tf32,
        "flags": library.flags(config),
    }
    if not graph.startswith("text_encoder"):
        found["size"] = [config.model.height, config.model.width]
        if config.export.dynamic_size:
            found["size"] = [list(reversed(size)) for size in sizes.spanned(config)]
    if flavor is Flavor.rtx:
        return {**found, "targets": engines.targets(config)}
    device, _ = gpu.find()
    assert device, "missing() lets no build without a GPU pass"
    found["hardware_compatibility"] = wanted.hardware_compatibility.value
    return {**found, "gpu": {"name": device.name, "capability": device.target}}


def build(
    source: Path, folder: Path, graph: str, config: Config, on_progress: Report
) -> dict[str, Any]:
    """Build the engine of `source/model.onnx` into `folder`; returns manifest fields.

    Writes the engine, TensorRT's log and the engine's layers. Raises `SdxlError` with TensorRT's
    own words where it refuses the graph or finds no way to run it.
    """
    began = time.perf_counter()
    described = settings(config, graph)
    trt = library.load(Flavor(described["flavor"]))
    phase = f"building the engine of {graph}"
    on_progress({"phase": phase, "text": "reading the graph"})
    with (folder / LOG).open("w") as file:
        log = listen.logger(trt, file)
        builder = trt.Builder(log)
        network = library.network(trt, builder)
        _parse(trt, network, log, source / graphs.MODEL)
        target = builder.create_builder_config()
        library.configure(trt, target, config)
        progress = listen.monitor(trt, log, phase, on_progress)
        target.progress_monitor = progress
        _set_profile(builder, target, network, described, config)
        place = _timing(config, described)
        cache = timing.attach(target, place) if place else None
        parsed = time.perf_counter()
        serialized = builder.build_serialized_network(network, target)
        if serialized is None:
            raise SdxlError(
                f"TensorRT built no engine of {graph}",
                _said(log.errors),
                "a graph, shapes and limits that it can build",
                f"backend.workspace_gib=null   # if it says so; all it said: {file.name}",
            )
        if place and cache is not None:
            timing.keep(target, cache, place)
        (folder / ENGINE).write_bytes(memoryview(serialized))
        found, origin = _layers(trt, log, serialized)
    table = layers.summary(found)
    (folder / LAYERS).write_text(
        json.dumps({"origin": origin, "summary": table, "layers": [asdict(n) for n in found]})
    )
    return {
        "settings": {
            **described,
            "layers": table,
            "layers_from": origin,
            "memory": _memory(folder / LOG),
            "parse_s": round(parsed - began, 3),
        },
        "seconds": round(time.perf_counter() - began, 3),
        "peak_bytes": environment.peak_rss_bytes(),
        "versions": {engines.MODULES[Flavor(described["flavor"])]: described["tensorrt"]},
        "device": described.get("gpu") or {"targets": described["targets"]},
    }


def _parse(trt: Any, network: Any, log: Any, model: Path) -> None:
    parser = trt.OnnxParser(network, log)
    if parser.parse_from_file(str(model)):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    said = [f"{each.node_operator()} {each.node_name()}: {each.desc()}" for each in errors]
    raise SdxlError(
        "TensorRT does not take the graph",
        _said(said or log.errors),
        "operators and types that its parser knows",
        f"look at {model}",
    )


def _set_profile(
    builder: Any, target: Any, network: Any, described: dict[str, Any], config: Config
) -> None:
    """The range of shapes: rows as described; height and width the model's, or all it spans."""
    graph, (least, usual, most) = described["graph"], described["rows"]
    latents = [(height // graphs.LATENT_SCALE, width // graphs.LATENT_SCALE)
               for width, height in sizes.spanned(config)]  # fmt: skip
    profile = builder.create_optimization_profile()
    free = False
    for index in range(network.num_inputs):
        entry = network.get_input(index)
        shape = tuple(entry.shape)
        if -1 not in shape:
            if len(shape) > 1 and not least == usual == most == shape[0]:
                raise SdxlError(
                    f"the graph of {graph} is for {shape[0]} rows only",
                    f"{entry.name} {shape}, rows wanted {least} to {most}",
                    "a graph with a free batch",
                    "export it again",
                )
            continue
        free = True
        profile.set_shape(
            entry.name,
            *(
                _filled(shape, rows, size)
                for rows, size in zip((least, usual, most), latents, strict=True)
            ),
        )
    if free and target.add_optimization_profile(profile) < 0:
        raise SdxlError(
            f"TensorRT refuses the profile of {graph}",
            f"rows {least}, {usual}, {most}",
            "min <= opt <= max",
            "backend.min_batch_size=1",
        )


def _filled(shape: tuple[int, ...], rows: int, latent: tuple[int, int]) -> tuple[int, ...]:
    """A shape with its free dimensions at `rows` and at the latent's height and width."""
    inner = (latent[axis - 2] if dim == -1 and axis >= 2 else dim for axis, dim in enumerate(shape))
    return (rows, *list(inner)[1:])


def _timing(config: Config, described: dict[str, Any]) -> Path | None:
    """The timing cache's file, for the library that has a use for it."""
    if described["flavor"] != Flavor.tensorrt or not engines.settings_of(config).timing_cache:
        return None
    return timing.path(described["tensorrt"], described["gpu"]["name"])


def _layers(trt: Any, log: Any, serialized: Any) -> tuple[list[layers.Layer], str]:
    """The engine's layers and who told them: the builder's log, or the inspector on a GPU."""
    if log.listing:
        return layers.from_log(log.listing), "build log"
    engine = trt.Runtime(log).deserialize_cuda_engine(serialized)
    if engine is None:
        return [], f"unknown: {_said(log.errors)}"
    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return layers.from_inspector(text), "inspector"


def _memory(log: Path) -> dict[str, int]:
    """Bytes on the GPU that TensorRT says the engine will take: weights, activations."""
    found = {}
    for line in log.read_text().splitlines():
        for name in ("Weights", "Activation"):
            _, mark, rest = line.partition(f"Total {name} Memory: ")
            if mark:
                found[f"{name.lower()}_bytes"] = int(rest.split()[0])
    return found


def _said(messages: list[str]) -> str:
    return "; ".join(messages[:SHOWN_ERRORS]) or "no reason given"
