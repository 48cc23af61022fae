"""The quantized miniature of the quantization's tests."""

from tests.quant.conftest import config, shared_store, statistics, warm_store

__all__ = ["config", "shared_store", "statistics", "warm_store"]
