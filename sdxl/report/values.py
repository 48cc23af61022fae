"""Values of a record, which is not trusted to have them."""

from __future__ import annotations

from typing import Any


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if value == value and abs(value) != float("inf") else None


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """A nested dict as dotted names."""
    if not isinstance(node, dict) or not node:
        return {prefix[:-1]: node}
    return {k: v for n, child in node.items() for k, v in flatten(child, f"{prefix}{n}.").items()}


def milliseconds(value: float) -> str:
    """`3.21`, `87.4`, `1,243`."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def rate(value: float) -> str:
    """Images per second with four digits: `2.310`, `702.8`, `12,345`."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:#.4g}"


def decibels(value: float | None, digits: int = 1) -> str:
    """`24.1 dB`; `identical` where no pixel differs, a dash where nothing was compared."""
    if value is None:
        return DASH
    return "identical" if value == float("inf") else f"{value:.{digits}f} dB"


DASH = "-"


STATUS_WORD = {"ok": "valid", "invalid": "INVALID"}
