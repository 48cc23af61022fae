"""Every name of TensorRT that the code uses exists in the bindings that are installed here.

Most of the `trt` backend can run only with a GPU; a name that was renamed or never existed would
be found there, after the engines were built.
"""

import ast
import importlib

import pytest

from tests.conftest import ROOT

SOURCES = [
    *sorted((ROOT / "sdxl/export/engine").glob("*.py")),
    *sorted((ROOT / "sdxl/backends/trt").glob("*.py")),
]
OBJECTS = {  # what a name in the code stands for; where two libraries' classes differ, both
    "builder": "Builder",
    "network": "INetworkDefinition",
    "entry": "ITensor",
    "target": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "ours": "ITimingCache",
    "inspector": "EngineInspector",
    "self.engine": "ICudaEngine",
    "engine.engine": "ICudaEngine",
    "self._runtime": "Runtime",
    "context": "IExecutionContext",
    "refitter": "Refitter",
    "parser": "OnnxParser OnnxParserRefitter",
    "runtime_config": "IRuntimeConfig",
    "self._cache": "IRuntimeCache",
}
RTX_ONLY = {
    "ComputeCapability", "num_compute_capabilities", "set_compute_capability",
    "EngineValidity", "EngineInvalidityDiagnostics", "get_engine_validity",
    "CudaGraphStrategy", "cuda_graph_strategy", "DynamicShapesKernelSpecializationStrategy",
    "dynamic_shapes_kernel_specialization_strategy", "create_runtime_cache", "set_runtime_cache",
    "create_runtime_config", "set_execution_context_allocation_strategy", "IRuntimeCache",
}  # fmt: skip
"""Used behind `flavor is Flavor.rtx` only."""


def chains():
    """(file, dotted text) of every attribute access in the sources."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                yield path.name, ast.unparse(node)


def members():
    """{name in the library: where} for `trt.A.B`, and (class, attribute) for known objects."""
    library, attributes = set(), set()
    for _, text in chains():
        owner, _, name = text.rpartition(".")
        for prefix in ("self._trt.", "trt."):
            if text.startswith(prefix) and "(" not in text:
                library.add(text.removeprefix(prefix))
        if owner in OBJECTS:
            attributes.add((OBJECTS[owner], name))
    return library, attributes


@pytest.fixture(params=["tensorrt_rtx", "tensorrt"])
def module(request):
    return pytest.importorskip(request.param, reason=f"{request.param} is not installed")


def test_every_name_exists(module):
    library, attributes = members()
    rtx = module.__name__ == "tensorrt_rtx"
    absent = []
    for text in sorted(library):
        if not rtx and text.split(".")[0] in RTX_ONLY:
            continue
        found = module
        for part in text.split("."):
            found = getattr(found, part, None)
        if found is None:
            absent.append(text)
    for classes, name in sorted(attributes):
        if not rtx and RTX_ONLY & {classes, name}:
            continue
        if not any(hasattr(getattr(module, each, None), name) for each in classes.split()):
            absent.append(f"{classes}.{name}")
    assert not absent


def test_the_names_come_from_the_code():
    """Guards the test above: it does see builder, engine, context and runtime."""
    library, attributes = members()
    assert {"Builder", "OnnxParser", "Runtime", "BuilderFlag.TF32"} <= library
    seen = {classes for classes, _ in attributes}
    assert seen >= set(OBJECTS.values())
    assert ("IExecutionContext", "execute_async_v3") in attributes
    assert ("ICudaEngine", "device_memory_size_v2") in attributes
    assert len(attributes) > 45


def test_builder_flags_and_levels_that_are_chosen_by_name(module):
    from sdxl.config.engines import RTX_TARGETS, Compatibility

    for flag in ("REFIT", "STRIP_PLAN", "WEIGHT_STREAMING"):
        assert hasattr(module.BuilderFlag, flag)
    if module.__name__ == "tensorrt_rtx":
        known = set(module.ComputeCapability.__members__) - {"NONE", "CURRENT"}
        assert known == {target.upper() for target in RTX_TARGETS}
    else:
        levels = {level.value.upper() for level in Compatibility}
        assert set(module.HardwareCompatibilityLevel.__members__) <= levels


def test_the_types_that_cross_a_graphs_border_are_known(module):
    from sdxl.backends.trt.engine import DTYPES

    assert importlib.import_module(module.__name__) is module
    assert set(DTYPES) <= set(module.DataType.__members__)
