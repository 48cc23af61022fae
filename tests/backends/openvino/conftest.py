"""The chain of artifacts that ends in graphs."""

from tests.export.conftest import chain_of

__all__ = ["chain_of"]
