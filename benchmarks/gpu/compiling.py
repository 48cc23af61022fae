"""What Triton has compiled in a step, where the cache that was carried along should have had it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def watched(found: list[dict[str, Any]]) -> Iterator[None]:
    """`found` gets kernels with the seconds that each took, as they come; none without Triton."""
    try:
        from triton import knobs
    except ImportError:
        yield
        return

    def compiled(*, src: Any, times: Any, cache_hit: bool, **_: Any) -> None:
        if not cache_hit:
            found.append({**described(src), "s": round(times.total / 1e6, 2)})

    knobs.compilation.listener = compiled
    try:
        yield
    finally:
        knobs.compilation.listener = None


def described(src: Any) -> dict[str, Any]:
    """A kernel's name, its constants, and the arguments that are no multiples of 16."""
    function = getattr(src, "fn", None)
    if function is None:
        return {"kernel": str(getattr(src, "name", ""))}
    names = list(function.arg_names)
    constants = {names[path[0]]: str(value) for path, value in src.constants.items()}
    by16 = {names[path[0]] for path, known in src.attrs.items()
            if ["tt.divisibility", 16] in known}  # fmt: skip
    able = [name for name, kind in src.signature.items() if kind[0] in "*i"]
    odd = [name for name in able if name not in by16 and name not in constants]
    return {"kernel": function.__name__, "constants": constants, "odd": odd}


def line(compiled: list[dict[str, Any]]) -> str:
    """How many and how long, by kernel."""
    seconds = sum(each["s"] for each in compiled)
    names = ", ".join(sorted({each["kernel"] for each in compiled}))
    return f"compiled here, in no cache: {len(compiled)} kernels in {seconds:.1f} s: {names}"
