"""A byte-pair vocabulary learnt from captions, as CLIP's tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

from sdxl.model.prompts import BUILTIN

VOCABULARY = 1024
"""Most tokens of the built-in byte-level vocabulary; the last two are begin and end of text."""


def _merges(words: dict[tuple[str, ...], int], most: int) -> list[tuple[str, str]]:
    """Byte-pair merges of counted words: the commonest pair first, ties by alphabet."""
    merges: list[tuple[str, str]] = []
    pairs: Counter[tuple[str, str]] = Counter()
    for word, count in words.items():
        _add(pairs, word, count)
    while pairs and len(merges) < most:
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word in [word for word in words if best in pairwise(word)]:
            count, merged = words.pop(word), _merged(word, best)
            _add(pairs, word, -count)
            _add(pairs, merged, count)
            words[merged] = count
    return merges


def _add(pairs: Counter[tuple[str, str]], word: tuple[str, ...], count: int) -> None:
    for pair in pairwise(word):
        pairs[pair] += count
        if not pairs[pair]:
            del pairs[pair]


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for symbol in word:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return tuple(out)


Vocabulary = tuple[dict[str, int], list[tuple[str, str]]]
"""Numbers of tokens, and merges in order."""


@cache
def vocabulary() -> Vocabulary:
    """The vocabulary of the random model, learnt from the built-in prompts."""
    return learn(BUILTIN.read_text().splitlines())


def learn(lines: Sequence[str]) -> Vocabulary:
    """Byte-level BPE in CLIP's form: bytes, bytes at a word's end, merges, two specials.

    Any text falls back to bytes. Learnt here because the trainer of `tokenizers` breaks ties
    differently in each process, and a model must not change.
    """
    from tokenizers import normalizers, pre_tokenizers

    splitter = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    lowercase = normalizers.Lowercase()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    room = VOCABULARY - 2 * len(alphabet) - 2
    counts = Counter(
        word
        for line in lines
        for word, _ in splitter.pre_tokenize_str(lowercase.normalize_str(line))
    )
    merges = _merges({(*word[:-1], f"{word[-1]}</w>"): n for word, n in counts.items()}, room)
    tokens = [*alphabet, *(f"{byte}</w>" for byte in alphabet)]
    tokens += [left + right for left, right in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    unique = list(dict.fromkeys(tokens))
    return {token: number for number, token in enumerate(unique)}, merges


def tokenizers() -> tuple[Any, Any]:
    """The pair of the random model."""
    return tokenizers_of(vocabulary())


def tokenizers_of(words: Vocabulary) -> tuple[Any, Any]:
    """SDXL's pair: the second pads with `!`, as SDXL's does."""
    from transformers import CLIPTokenizer

    vocab, pairs = words
    merges: Any = pairs
    first = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)
    second = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77, pad_token="!")
    return first, second
