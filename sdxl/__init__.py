"""SDXL experiments: which precision, which quantization, which backend should ship."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdxl.run.api import generate, load_record, pack, records, sweep

__version__ = "0.2.0"
__all__ = ["generate", "load_record", "pack", "records", "run", "sweep"]

# `python -m sdxl.doctor` and `sdxl.download`: names from before `python -m sdxl COMMAND`.
__path__.append(f"{__path__[0]}/core/doors")


def __getattr__(name: str) -> Any:
    """The Python interface, imported when it is used; `run` is a room that can be called."""
    import importlib

    if name == "run":
        return importlib.import_module("sdxl.run")
    if name in __all__:
        return getattr(importlib.import_module("sdxl.run.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
