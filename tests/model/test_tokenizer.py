"""SDXL's two tokenizers, beside those of the benchmark's reference (transformers 4.45.2)."""

import json

import pytest

from sdxl.model.tokenizer import tokenizers, vocabulary
from sdxl.model.weights import read_tokenizer

END = "<|endoftext|>"
BEGIN_ID, END_ID = 1022, 1023
WORDS = {  # text -> ids by transformers 4.45.2 on this vocabulary, before the padding
    "a <|endoftext|> b": ([320, END_ID, 321], [320, END_ID, 321]),
    "a<|endoftext|>b": ([320, END_ID, 321], [320, END_ID, 321]),
    # The second pads with `!`, which its captions' own `!` are, too.
    "wow !! yes!": ([86, 706, 0, 256, 88, 538, 256], [86, 706, 0, 0, 88, 538, 0]),
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Both tokenizers read from folders as SDXL's checkpoint has them."""
    words, merges = vocabulary()
    found = []
    for name, pad in (("tokenizer", END), ("tokenizer_2", "!")):
        folder = tmp_path_factory.mktemp(name)
        (folder / "vocab.json").write_text(json.dumps(words))
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n")
        facts = {"bos_token": "<|startoftext|>", "eos_token": END, "unk_token": END,
                 "pad_token": pad, "model_max_length": 77,
                 "tokenizer_class": "CLIPTokenizer"}  # fmt: skip
        (folder / "tokenizer_config.json").write_text(json.dumps(facts))
        found.append(read_tokenizer(folder, name))
    return found


@pytest.mark.parametrize("text", WORDS)
@pytest.mark.parametrize("made", [False, True], ids=["read", "made"])
def test_marks_inside_a_caption_are_tokenized_as_the_reference_does(stored, text, made):
    pair = tokenizers() if made else stored
    for tokenizer, wanted, pad in zip(pair, WORDS[text], (END_ID, 0), strict=True):
        ids = tokenizer([text], padding="max_length", max_length=77, truncation=True)["input_ids"]
        whole = [BEGIN_ID, *wanted, END_ID]
        assert ids[0] == whole + [pad] * (77 - len(whole))
