"""The profile of a record as rows of the terminal's table."""

from __future__ import annotations

from typing import Any

NAME = 60
"""Characters of a kernel's name; templates make some of them pages long."""


def rows(profile: dict[str, Any]) -> list[tuple[str, str]]:
    """Time by kind of module, the longest modules and kernels, and where the trace is."""
    found = []
    everything = sum(ms for kinds in profile["kinds"].values() for ms in kinds.values()) or 1.0
    for component, kinds in profile["kinds"].items():
        parts = (f"{kind} {ms:,.1f} ms ({ms / everything:.1%})" for kind, ms in kinds.items())
        found.append((f"time in {component}", ", ".join(parts)))
    modules = (f"{m['module']} ({m['kind']}) {m['ms']:,.1f} ms" for m in profile["modules"])
    found.append(("longest modules", "\n".join(modules)))
    kernels = (
        f"{k['kernel'][:NAME]} {k['ms']:,.1f} ms ({k['share']:.1%}) in {k['calls']} calls"
        for k in profile["kernels"]
    )
    found.append(("longest kernels", "\n".join(kernels)))
    found.append(("trace", f"{profile['trace']} beside the record (ui.perfetto.dev shows it)"))
    return found
