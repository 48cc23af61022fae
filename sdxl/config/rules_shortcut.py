"""Rules of shortcuts: the open division's, and nothing that would change nothing."""

from __future__ import annotations

from collections.abc import Iterator

from sdxl.config import plugins, schema, shortcuts, usual
from sdxl.config.schema import Config, Rules
from sdxl.core.errors import Problem


def problems_of(c: Config) -> Iterator[Problem]:
    """Broken rules."""
    shortcut, name = c.shortcut, f"shortcut={c.shortcut.name}"
    if shortcut.name == "none":
        return
    if c.rules is Rules.closed:
        yield Problem(
            "MLPerf's closed division caches nothing and skips nothing",
            f"{name} rules=closed",
            "shortcut=none, or the open division",
            "rules=open",
        )
    backend = plugins.backend_of(c)
    able = set(shortcuts.parts_of(shortcut)) <= {*backend.parts}
    if not ((backend.needs_torch and able) or backend.remote):
        does = "merges no tokens" if backend.parts else "computes whole UNets only"
        does = does if backend.needs_torch else "draws without a model"
        yield Problem(
            f"backend={c.backend.name} {does}",
            name,
            "backend=torch, or shortcut=none",
            "backend=torch",
        )
    if isinstance(shortcut, schema.GuidanceCutoff):
        yield from _cutoff(shortcut, c.model)
    if isinstance(shortcut, schema.DeepCache):
        yield from _deep(shortcut, c.model.steps)
    yield from _graphs(c)
    guided = c.model.guidance > 1
    steps = shortcuts.steps_of(shortcut, c.model.steps, guided)
    if not shortcuts.parted(steps) and all(step.guided == guided for step in steps):
        yield Problem(
            f"`{name}` would be ignored: it leaves nothing out",
            f"model.steps={c.model.steps} model.guidance={c.model.guidance:g}",
            "a shorter part of the steps, or shortcut=none",
            "shortcut=none",
        )


def _graphs(c: Config) -> Iterator[Problem]:
    """What graphs and engines are fixed to."""
    shortcut = c.shortcut
    fixed = plugins.backend_of(c).loads in ("graphs", "engines")
    if fixed and c.export.dynamic_size and shortcuts.parts_of(shortcut):
        yield Problem(
            "the parts of a UNet are graphs of one size",
            f"export.dynamic_size=true shortcut={shortcut.name}",
            "one of both",
            "export.dynamic_size=false",
        )
    if isinstance(shortcut, schema.GuidanceCutoff) and getattr(c.backend, "static_batch", False):
        yield Problem(
            "a graph of one batch size pads the rows that the shortcut leaves out",
            f"backend.static_batch=true shortcut={shortcut.name}",
            "a free batch, or a shortcut of the same rows in each graph, such as tgate",
            "backend.static_batch=false",
        )


def _cutoff(shortcut: schema.GuidanceCutoff, model: schema.Model) -> Iterator[Problem]:
    if model.guidance <= 1:
        yield Problem(
            "`shortcut.until` would be ignored: the model draws without guidance",
            f"model.guidance={model.guidance:g} shortcut={shortcut.name}",
            "a model with guidance, or a shortcut of another kind",
            "shortcut=deepcache",
        )
    if shortcut.start >= shortcut.until:
        yield Problem(
            "`shortcut.start` must be below `shortcut.until`",
            f"{shortcut.start:g} and {shortcut.until:g}",
            "shares of the steps, such as 0 and 0.5; model.guidance=1 guides none",
            "shortcut.start=0 shortcut.until=0.5",
        )


def _deep(shortcut: schema.DeepCache, steps: int) -> Iterator[Problem]:
    listed = shortcut.deep_steps
    if listed is None:
        return
    if "interval" in usual.changed("shortcut", shortcut):
        yield Problem(
            "`shortcut.interval` would be ignored beside `shortcut.deep_steps`",
            f"shortcut.interval={shortcut.interval}",
            "one of both",
            "shortcut.deep_steps=null",
        )
    if listed[:1] != [0] or listed != sorted(set(listed)) or listed[-1] >= steps:
        yield Problem(
            "`shortcut.deep_steps` names each step once, in order, from 0",
            f"[{','.join(map(str, listed))}] of {steps} steps",
            f"numbers from 0 to {steps - 1}",
            "shortcut.deep_steps=[0,2,5]",
        )
