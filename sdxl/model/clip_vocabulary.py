"""CLIP's vocabulary, which both of SDXL's tokenizers share: where it is found, how it is read."""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdxl.core import json_file, store
from sdxl.core.errors import UserError

MERGES = 49152 - 256 - 2
"""Lines of bpe_simple_vocab_16e6.txt that make tokens, after its first."""
SPECIAL = ("<|startoftext|>", "<|endoftext|>")
FILE = "bpe_simple_vocab_16e6.txt.gz"


Vocabulary = tuple[dict[str, int], list[tuple[str, str]]]
"""Numbers of tokens, and merges in order."""


def find() -> Path:
    """The vocabulary on this machine; raises `UserError` with the line that brings it."""
    package = importlib.util.find_spec("open_clip")
    places = [
        store.root() / "sdxl" / "tokenizer",
        store.root() / "metrics" / FILE,
        *(Path(place) / FILE for place in (package and package.submodule_search_locations) or ()),
    ]
    for place in places:
        if place.is_file() or (place / "vocab.json").is_file():
            return place
    raise UserError(
        "a single file holds no tokenizer, and CLIP's vocabulary is not on this machine",
        ", ".join(str(place) for place in places),
        f"{FILE} (1.4 MB), or a diffusers folder whose tokenizers go with the file",
        "python -m sdxl download vocabulary   # or model.config=FOLDER",
    )


def words(path: Path) -> Vocabulary:
    """Tokens and merges from OpenAI's merges (.txt or .txt.gz) or a tokenizer's folder.

    A folder is what SDXL keeps in `tokenizer/`: vocab.json and merges.txt, the same vocabulary.
    """
    if path.is_dir():
        lines = (path / "merges.txt").read_text(encoding="utf-8").splitlines()
        merges = [_pair(line) for line in lines[1:] if line]
        vocab: dict[str, int] = json_file.read_object(path / "vocab.json")
        return vocab, merges
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8")
    merges = [_pair(line) for line in text.split("\n")[1 : MERGES + 1] if line]
    return vocabulary_of(merges), merges


def _pair(line: str) -> tuple[str, str]:
    left, right = line.split()
    return left, right


def read_vocabulary(path: Path) -> Any:
    """transformers' CLIPTokenizer from the files that `words` reads."""
    from transformers import CLIPTokenizer

    expected = "bpe_simple_vocab_16e6.txt.gz, or a folder with vocab.json and merges.txt"
    try:
        vocab, merges = words(path)
        pairs: Any = merges
        return CLIPTokenizer(vocab=vocab, merges=pairs)
    except Exception as error:  # the tokenizers library raises plain ones
        raise UserError(f"{path} is no CLIP vocabulary", str(error), expected) from error


def vocabulary_of(merges: Sequence[tuple[str, ...]]) -> dict[str, int]:
    """Token numbers in OpenAI's order: printable bytes, the others, all at a word's end, merges."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in printable]
    letters += [chr(256 + number) for number in range(256 - len(printable))]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["".join(pair) for pair in merges]
    return {token: number for number, token in enumerate([*tokens, *SPECIAL])}
