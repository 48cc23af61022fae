"""The syntax trees of our own code, parsed once for all tests that read it."""

import ast
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path


@functools.cache
def tree(path: Path) -> ast.Module:
    """Of a file; not to be changed."""
    return ast.parse(path.read_text())


def trees(paths: Iterable[Path]) -> Iterator[tuple[Path, ast.Module]]:
    """Each file with its tree."""
    return ((path, tree(path)) for path in paths)
