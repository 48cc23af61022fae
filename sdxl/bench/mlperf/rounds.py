"""What each MLPerf Inference round asks of SDXL: one table, read by runs, verdicts, submissions.

Sources: loadgen/mlperf.conf and the submission checker's constants of each round
(mlcommons/inference), text_to_image/tools/sample_ids.txt for the pictures.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from sdxl.config.schema import Round

MODEL = "stable-diffusion-xl"
"""The benchmark's name in LoadGen's keys and in folder names."""

PROMPTS = 5000
"""The benchmark's data set, every prompt of it, and its `performance_sample_count`."""

CLOSED_TESTS = ("TEST01", "TEST04")
"""Compliance tests of SDXL in the closed division; TEST05 went with v5.0, the others never came."""


@dataclass(frozen=True)
class Seeds:
    """LoadGen's seeds of a round (loadgen/mlperf.conf of that round)."""

    qsl: int
    sample_index: int
    schedule: int


@dataclass(frozen=True)
class Bounds:
    """Both ends of what a score may be."""

    low: float
    high: float


CLIP = Bounds(31.68631873, 31.81331801)
"""100 x cosine of ViT-B/32 "openai", mean over the prompts: 31.74981837 within 0.2 %."""

FID = Bounds(23.01085758, 23.95007626)
"""Against val2014.npz: 23.48046692 within 2 %."""


@dataclass(frozen=True)
class Settings:
    """LoadGen's settings of one scenario; None where the scenario has no such setting.

    `min_query_count` is what a valid run needs: LoadGen's rule file says 100 for SingleStream and
    Server, but Server's early stopping accepts no fewer than 459, and LoadGen does not go on
    until it has them.
    """

    min_query_count: int
    percentile: float | None = None
    target_latency_ms: float | None = None
    samples_per_query: int | None = None
    min_duration_ms: int = 600_000


SETTINGS = {
    "Offline": Settings(PROMPTS),
    "Server": Settings(459, 0.99, 20_000.0),
    "SingleStream": Settings(100, 0.9),
    "MultiStream": Settings(662, 0.99, samples_per_query=8),
}
"""The same in every round since v4.1. MultiStream never was a scenario of SDXL."""

CLOSED, OPEN = "closed", "open"
OPEN_SAMPLES = 500
"""Of an Offline run in the open division. The official checker asks for none; ours for these."""

EDGE = ("SingleStream", "Offline")
DATACENTER = ("Server", "Offline")


@dataclass(frozen=True)
class Layout:
    """Where a round wants the parts of a submission, below `division/submitter`.

    Placeholders: {system}, {scenario}. `measurement` is the file with the weights' data types,
    `rule_file` LoadGen's rules as they were, where a round wants them beside `user.conf`.
    """

    source: str
    results: str
    notes: str
    measurement: str
    compliance: str
    rule_file: str = ""


V5_LAYOUT = Layout(
    source="code",
    results=f"results/{{system}}/{MODEL}/{{scenario}}",
    notes=f"measurements/{{system}}/{MODEL}/{{scenario}}",
    measurement="{system}_{scenario}.json",
    compliance=f"compliance/{{system}}/{MODEL}/{{scenario}}",
)
V4_LAYOUT = replace(V5_LAYOUT, rule_file="mlperf.conf")
V6_LAYOUT = Layout(
    source="src",
    results=f"results/{{system}}/{MODEL}/{{scenario}}",
    notes=f"results/{{system}}/{MODEL}/{{scenario}}",
    measurement="measurements.json",
    compliance=f"results/{{system}}/{MODEL}/{{scenario}}",
)


@dataclass(frozen=True)
class Rules:
    """One round. `scenarios`: those a system type must submit; a type that is absent may not.

    `quoted`: the numbers of accuracy.txt stand in quotes, which earlier checkers did not read.
    """

    seeds: Seeds
    image_ids: tuple[int, ...]
    images: bool
    scenarios: dict[str, tuple[str, ...]]
    layout: Layout
    status: str
    quoted: bool = True
    clip: Bounds = CLIP
    fid: Bounds = FID


_BOTH = ("SingleStream", "Offline", "Server")
_V5_SCENARIOS = {
    "datacenter": DATACENTER,
    "edge": EDGE,
    "datacenter,edge": _BOTH,
    "edge,datacenter": _BOTH,
}
_V6_SCENARIOS = {"edge": EDGE, "datacenter,edge": _BOTH, "edge,datacenter": _BOTH}
SYSTEM_TYPES = tuple(_V5_SCENARIOS)
"""Spelled as a description must spell them."""
_V40_IMAGES = (4459, 4015, 2705, 1682, 4048, 4683, 3757, 1578, 3319, 95)

_V61 = Rules(
    Seeds(2085463073848966840, 2747215439041700203, 16159082839903944936),
    (4475, 3627, 1046, 4937, 3867, 1671, 3789, 1206, 4111, 3093),
    images=False,
    scenarios=_V6_SCENARIOS,
    layout=V6_LAYOUT,
    status="edge only; in the benchmark table again, still absent from the written rules",
)

ROUNDS = {
    Round("v4.1"): Rules(
        Seeds(3066443479025735752, 10688027786191513374, 14962580496156340209),
        (4655, 2569, 1303, 109, 4509, 3009, 2179, 1826, 2094, 3340),
        images=True,
        scenarios=_V5_SCENARIOS,
        layout=V4_LAYOUT,
        status="datacenter and edge; the round is over",
        quoted=False,
    ),
    Round("v5.0"): Rules(
        Seeds(6023615788873153749, 15036839855038426416, 9933818062894767841),
        # The benchmark's list and the checker's, which was left at v4.0's: both are wanted.
        (716, 2387, 3694, 273, 1221, 2942, 2047, 1691, 1510, 4399, *_V40_IMAGES),
        images=True,
        scenarios=_V5_SCENARIOS,
        layout=V5_LAYOUT,
        status="datacenter and edge; the round is over",
        quoted=False,
    ),
    Round("v5.1"): Rules(
        Seeds(1780908523862526354, 14771362308971278857, 18209322760996052031),
        (2747, 2235, 2165, 1515, 1538, 1367, 2419, 4629, 3657, 4532),
        images=True,
        scenarios=_V5_SCENARIOS,
        layout=V5_LAYOUT,
        status="datacenter and edge; the last round with SDXL in the written rules",
    ),
    Round("v6.0"): Rules(
        Seeds(2465351861681999779, 14276810075590677512, 3936089224930324775),
        (1311, 2476, 3644, 2188, 4114, 52, 388, 1195, 3427, 2289),
        images=True,
        scenarios=_V6_SCENARIOS,
        layout=V6_LAYOUT,
        status="removed from the rules and the benchmark table; the checker still takes edge",
    ),
    Round("v6.1"): _V61,
}
"""The published rounds. `custom` is not one: see `rules_of`."""


def rules_of(which: Round, seed: int = 0) -> Rules:
    """The rules of a round; `custom` has the newest round's with LoadGen seeds drawn from `seed`.

    Its figures show how much hangs on the seeds, and can be submitted nowhere.
    """
    if which in ROUNDS:
        return ROUNDS[which]
    names = ("qsl", "sample_index", "schedule")
    drawn = (hashlib.sha256(f"{name} {seed}".encode()).digest()[:8] for name in names)
    seeds = Seeds(*(int.from_bytes(each, "big") for each in drawn))
    return replace(_V61, seeds=seeds, scenarios={}, status="no round: seeds of your own")


def settings_of(scenario: str, division: str) -> Settings:
    """A scenario's settings in a division: Offline may be shorter in the open one."""
    found = SETTINGS[scenario]
    if division == OPEN and scenario == "Offline":
        return replace(found, min_query_count=OPEN_SAMPLES)
    return found


def scenarios_of(rules: Rules, system_type: str, division: str) -> tuple[str, ...] | None:
    """What a system type may submit; None if nothing. In the open division whatever it likes."""
    if division == OPEN:
        return tuple(SETTINGS) if system_type in SYSTEM_TYPES else None
    return rules.scenarios.get(system_type)
