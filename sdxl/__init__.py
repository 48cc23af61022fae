"""SDXL experiments: which precision, which quantization, which backend should ship."""

__version__ = "0.2.0"

# `python -m sdxl.doctor` and `sdxl.download`: names from before `python -m sdxl COMMAND`.
__path__.append(f"{__path__[0]}/core/doors")
