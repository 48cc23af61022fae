"""What is asked for: captions, their order and their tokens."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdxl.config import schema
from sdxl.core import store
from sdxl.core.errors import UserError
from sdxl.core.paths import PROMPTS
from sdxl.core.types import Prompt, TokenIds
from sdxl.model.scenes import captions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BUILTIN = PROMPTS
MAX_TOKENS = 77
REPORTED_ROWS = 10


def load(dataset: schema.Dataset, limit: int | None = None, seed: int = 0) -> list[Prompt]:
    """The prompts of a dataset, position = qsl index.

    `limit` takes the first rows, or with `dataset.shuffle` a subset drawn with `seed`, in file
    order. Raises `UserError` for a missing or malformed file, naming the lines.
    """
    if isinstance(dataset, schema.TsvDataset):
        rows = read_tsv(store.resolve(dataset.path), dataset.name)
    elif isinstance(dataset, schema.ScenesDataset):
        rows = [(caption.text, "") for caption in captions.held_out(dataset.prompts)]
    else:
        rows = [(text, "") for text in BUILTIN.read_text().splitlines() if text]
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


def read_tsv(path: Path, name: str) -> list[tuple[str, str]]:
    """(caption, id) of each row of a tab-separated file with a header.

    The MLPerf files' columns: `id image_id caption height width file_name [coco_url]`; `caption`
    is needed, `id` used if there.
    """
    if not path.is_file():
        raise UserError(
            f"the captions of dataset={name} are missing",
            str(path),
            "a tab-separated file with a `caption` column",
            f"dataset.path=FILE, or: python -m sdxl download "
            f"{'calibration' if 'calibration' in name else 'coco'}",
        )
    rows: list[tuple[str, str]] = []
    bad: list[str] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter="\t")
            header = next(reader, [])
            if "caption" not in header:
                raise UserError(
                    f"{path}, line 1: no `caption` column",
                    " ".join(header)[:120] or "an empty file",
                    "id image_id caption height width file_name [coco_url], tab-separated",
                )
            caption_at = header.index("caption")
            id_at = header.index("id") if "id" in header else None
            line = reader.line_num + 1
            for row in reader:
                if len(row) != len(header):
                    bad.append(f"line {line}: {len(row)} columns of {len(header)}")
                elif not row[caption_at].strip():
                    bad.append(f"line {line}: empty caption")
                else:
                    rows.append((row[caption_at], row[id_at] if id_at is not None else ""))
                line = reader.line_num + 1  # a quoted caption may span lines
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text", str(error), "UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}") from error
    if bad:
        more = f"; and {len(bad) - REPORTED_ROWS} more" if len(bad) > REPORTED_ROWS else ""
        raise UserError(
            f"{path} has malformed rows",
            "; ".join(bad[:REPORTED_ROWS]) + more,
            f"{len(header)} tab-separated columns and a caption in each row",
        )
    if not rows:
        raise UserError(f"{path} has no captions", "a header only", "at least one row")
    return rows


def tokenize(texts: Sequence[str], tokenizers: Sequence[PreTrainedTokenizerBase]) -> TokenIds:
    """Token ids (N, 77) for each of the two encoders, padded and truncated."""
    import numpy as np

    def ids(tokenizer: Any) -> Any:
        out = tokenizer(list(texts), padding="max_length", max_length=MAX_TOKENS, truncation=True)
        return np.asarray(out["input_ids"], dtype=np.int64)

    first, second = (ids(tokenizer) for tokenizer in tokenizers)
    return TokenIds(first, second)
