"""Whether a picture shows what its caption asks for."""

from __future__ import annotations

from collections.abc import Sequence

from sdxl.model.scenes.captions import Asked, Caption
from sdxl.model.scenes.world import holds
from sdxl.quality.per_prompt import ANSWER, NUMBER
from sdxl.quality.scenes.encoder import Found

FIELDS = ("count", "kinds", "relation", "details", "attribute")
KINDS = {"clip_scenes": NUMBER, **dict.fromkeys(FIELDS, ANSWER)}
"""How the figures of a picture are to be read."""


def agreement(caption: Caption, found: Sequence[Found]) -> dict[str, bool | None]:
    """By field, whether the solids found are those asked for; None where nothing was asked.

    count: as many solids; kinds: each asked colour and shape is there; details: with the asked
    size and material; relation: the first stands so to the second; attribute: count, kinds and
    relation together.
    """
    matches = [_match(asked, found) for asked in caption.asked]
    kinds = all(match is not None for match in matches)
    count = len(found) == len(caption.asked)
    details = kinds and all(
        _detailed(asked, match) for asked, match in zip(caption.asked, matches, strict=True)
    )
    relation: bool | None = None
    if caption.relation:
        first, second = matches[:2]
        relation = (
            first is not None
            and second is not None
            and holds(caption.relation, (first.x, first.y), (second.x, second.y))
        )
    asked_details = any(asked.size or asked.material for asked in caption.asked)
    return {
        "count": count,
        "kinds": kinds,
        "relation": relation,
        "details": details if asked_details else None,
        "attribute": count and kinds and relation is not False,
    }


def accuracy(captions: Sequence[Caption], found: Sequence[Sequence[Found]]) -> dict[str, float]:
    """Shares of pictures that agree: by field, and `attribute_N` for captions of N solids."""
    rows = [(len(c.asked), agreement(c, f)) for c, f in zip(captions, found, strict=True)]
    shares = {name: _share([row[name] for _, row in rows]) for name in FIELDS}
    for number in (1, 2, 3):
        shares[f"attribute_{number}"] = _share([r["attribute"] for n, r in rows if n == number])
    return {f"{name}_accuracy": share for name, share in shares.items() if share is not None}


def _share(values: Sequence[bool | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _match(asked: Asked, found: Sequence[Found]) -> Found | None:
    same = [f for f in found if (f.colour, f.shape) == (asked.colour, asked.shape)]
    return same[0] if same else None


def _detailed(asked: Asked, match: Found | None) -> bool:
    if match is None:
        return False
    return asked.size in (None, match.size) and asked.material in (None, match.material)
