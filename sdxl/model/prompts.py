"""What is asked for: captions, their order and their tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdxl.config import schema
from sdxl.core import store
from sdxl.core.errors import UserError
from sdxl.core.paths import PROMPTS
from sdxl.core.types import Prompt, TokenIds
from sdxl.model import caption_files
from sdxl.model.scenes import captions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

BUILTIN = PROMPTS
MAX_TOKENS = 77


def load(dataset: schema.Dataset, limit: int | None = None, seed: int = 0) -> list[Prompt]:
    """The prompts of a dataset, position = qsl index.

    `limit` takes the first rows, or with `dataset.shuffle` a subset drawn with `seed`, in file
    order. Raises `UserError` for a missing or malformed file, naming the lines.
    """
    rows = _rows(dataset)
    if limit is not None and limit > len(rows):
        raise UserError(
            f"`limit` is larger than dataset={dataset.name}",
            str(limit),
            f"at most {len(rows)} prompts",
            f"limit={len(rows)}",
        )
    chosen = list(range(len(rows)))[:limit]
    if dataset.shuffle and limit is not None:
        chosen = sorted(random.Random(seed).sample(range(len(rows)), limit))
    return [Prompt(index, rows[row][0], row, rows[row][1]) for index, row in enumerate(chosen)]


def _rows(dataset: schema.Dataset) -> list[caption_files.Row]:
    """Every caption of a dataset, with its id where it has one."""
    if isinstance(dataset, schema.TsvDataset):
        path = _existing(dataset)
        return (caption_files.read_padded(path)[0] if dataset.padded
                else caption_files.read_tsv(path))  # fmt: skip
    if isinstance(dataset, schema.LinesDataset):
        return caption_files.read(_existing(dataset))
    if isinstance(dataset, schema.TextDataset):
        return [(dataset.text, "")]
    if isinstance(dataset, schema.ScenesDataset):
        return [(caption.text, "") for caption in captions.held_out(dataset.prompts)]
    return [(text, "") for text in BUILTIN.read_text().splitlines() if text]


def _existing(dataset: schema.TsvDataset | schema.LinesDataset) -> Path:
    """The file of a dataset; raises `UserError` if it is not there."""
    path, name = store.resolve(dataset.path), dataset.name
    if path.is_file():
        return path
    if isinstance(dataset, schema.LinesDataset):
        raise UserError(
            "the file of `prompts` is not there",
            str(path),
            "one caption a line",
            "prompts=FILE.txt",
        )
    made = {"coco": "coco", "coco_calibration": "calibration"}.get(name)
    raise UserError(
        f"the captions of dataset={name} are missing",
        str(path),
        "a tab-separated file with a `caption` column",
        "dataset.path=FILE" + (f", or: python -m sdxl download {made}" if made else ""),
    )


def truncated(prompts: Sequence[Prompt], tokenizers: Sequence[Any]) -> list[Prompt]:
    """Those that are longer than what the text encoders read: their ends are not drawn."""
    found: set[int] = set()
    for tokenizer in tokenizers:
        ids = tokenizer([prompt.text for prompt in prompts], verbose=False)["input_ids"]
        found |= {place for place, each in enumerate(ids) if len(each) > MAX_TOKENS}
    return [prompts[place] for place in sorted(found)]


def doubts(long: Sequence[Prompt], count: int) -> list[str]:
    """One line about prompts that are cut, for people."""
    if not long:
        return []
    rows = ", ".join(str(prompt.row) for prompt in long[:5])
    more = f" and {len(long) - 5} more" if len(long) > 5 else ""
    return [
        f"{len(long)} of {count} prompts are longer than {MAX_TOKENS} tokens, the rest of them is "
        f"not read: rows {rows}{more}"
    ]


def tokenize(texts: Sequence[str], tokenizers: Sequence[PreTrainedTokenizerBase]) -> TokenIds:
    """Token ids (N, 77) for each of the two encoders, padded and truncated."""
    first, second = (token_ids(texts, tokenizer) for tokenizer in tokenizers)
    return TokenIds(first, second)


def token_ids(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int64]:
    """Those (N, 77) for the encoder of this tokenizer."""
    import numpy as np

    out = tokenizer(list(texts), padding="max_length", max_length=MAX_TOKENS, truncation=True)
    return np.asarray(out["input_ids"], dtype=np.int64)
