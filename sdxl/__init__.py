"""SDXL experiments: which precision, which quantization, which backend should ship."""

__version__ = "0.1.0"
