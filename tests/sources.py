"""The syntax trees of our own code, parsed once for all tests that read it."""

import ast
import functools
from pathlib import Path


@functools.cache
def tree(path: Path) -> ast.Module:
    """Of a file; not to be changed."""
    return ast.parse(path.read_text())
