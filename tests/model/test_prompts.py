"""Prompts: the built-in ones, MLPerf's files, what malformed files are told, and tokens."""

import csv

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdxl.config import schema
from sdxl.core.errors import UserError
from sdxl.core.types import Prompt
from sdxl.model import prompts, tokenizer

HEADER = "id\timage_id\tcaption\theight\twidth\tfile_name\tcoco_url"
ROW = "1\t2\tA cat.\t480\t640\tx.jpg\thttp://x"


@pytest.fixture
def tsv(tmp_path):
    """Lines -> a dataset that reads them."""

    def make(*lines, data=None):
        path = tmp_path / "captions.tsv"
        path.write_bytes(data if data is not None else ("\n".join(lines) + "\n").encode())
        return schema.TsvDataset("coco", path=str(path))

    return make


def told(dataset, **options):
    with pytest.raises(UserError) as caught:
        prompts.load(dataset, **options)
    return str(caught.value)


def test_there_are_at_least_64_builtin_prompts_all_different():
    found = prompts.load(schema.Dataset("builtin"))
    assert len(found) >= 64
    assert len({prompt.text for prompt in found}) == len(found)
    assert [prompt.index for prompt in found] == list(range(len(found)))


def test_the_mlperf_file_is_read_row_by_row(data):
    path = data / "mlperf/captions_source.tsv"
    found = prompts.load(schema.TsvDataset("coco", path=str(path)))
    with path.open(encoding="utf-8", newline="") as file:
        expected = [row["caption"] for row in csv.DictReader(file, delimiter="\t")]
    assert len(found) == 5000
    assert [prompt.text for prompt in found] == expected
    assert [prompt.row for prompt in found] == list(range(5000))
    assert all(prompt.source_id.isdigit() for prompt in found)
    assert not any(prompt.text.startswith('"') and prompt.text.endswith('"') for prompt in found)


def test_the_calibration_captions_are_read(data):
    path = data / "mlperf/calibration_captions.tsv"
    assert len(prompts.load(schema.TsvDataset("coco_calibration", path=str(path)))) == 500


def test_limit_takes_the_first_rows():
    every = prompts.load(schema.Dataset("builtin"))
    assert prompts.load(schema.Dataset("builtin"), 5) == every[:5]


@settings(max_examples=30)
@given(st.integers(1, 64), st.integers(0, 2**31))
def test_a_shuffled_subset_depends_on_the_seed_only(limit, seed):
    dataset = schema.Dataset("builtin", shuffle=True)
    found = prompts.load(dataset, limit, seed)
    rows = [prompt.row for prompt in found]
    assert rows == sorted(set(rows)) and len(rows) == limit
    assert [prompt.index for prompt in found] == list(range(limit))
    assert found == prompts.load(dataset, limit, seed)


def test_another_seed_draws_another_subset():
    dataset = schema.Dataset("builtin", shuffle=True)
    assert prompts.load(dataset, 8, 0) != prompts.load(dataset, 8, 1)


def test_quoted_captions_lose_their_quotes(tsv):
    line = '3\t4\t"A ""red"" cat,\tsitting"\t1\t1\tx\tu'
    assert prompts.load(tsv(HEADER, line))[0].text == 'A "red" cat,\tsitting'


def test_malformed_rows_are_named_by_their_line(tsv):
    said = told(tsv(HEADER, ROW, "1\t2\tshort", ROW, "5\t6\t  \t1\t1\tx\tu", ROW))
    assert "malformed rows" in said
    assert "line 3: 3 columns of 7" in said and "line 5: empty caption" in said


def test_a_quote_that_never_closes_is_found_where_it_opens(tsv):
    said = told(tsv(HEADER, ROW, '1\t2\t"A cat\t480\t640\tx.jpg\tu', ROW, ROW))
    assert "line 3" in said and "line 5" not in said


def test_many_malformed_rows_are_counted(tsv):
    said = told(tsv(HEADER, *["bad"] * 25))
    assert "line 11" in said and "line 12" not in said and "and 15 more" in said


def test_a_missing_file_says_how_to_get_it():
    said = told(schema.TsvDataset("coco", path="/nowhere/captions.tsv"))
    assert "/nowhere/captions.tsv" in said and "python -m sdxl download coco" in said


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (HEADER.encode() + b"\n1\t2\tcaf\xe9\t1\t1\tx\tu\n", "not UTF-8"),
        (b"", "no `caption` column"),
        (b"id\ttext\n1\tx\n", "no `caption` column"),
        (HEADER.encode() + b"\n", "no captions"),
        (b"caption\n" + b"x" * 200_000 + b"\n", "line 2"),
    ],
    ids=["latin-1", "empty", "other columns", "header only", "endless field"],
)
def test_a_file_of_another_kind_is_refused(tsv, data, said):
    assert said in told(tsv(data=data))


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tsv):
    found = prompts.load(tsv(data=b"\xef\xbb\xbfcaption\tid\r\nA cat.\t7\r\n"))
    assert [(prompt.text, prompt.source_id) for prompt in found] == [("A cat.", "7")]


def test_more_than_there_are_is_refused():
    assert "limit=64" in told(schema.Dataset("builtin"), limit=65)


def test_tokens_are_77_per_prompt_padded_and_truncated():
    first, second = tokenizers = tokenizer.tokenizers()
    texts = ["A cat.", "word " * 200, ""]
    ids = prompts.tokenize(texts, tokenizers)
    begin, end = first.bos_token_id, first.eos_token_id
    bang = second.convert_tokens_to_ids("!")
    assert ids.first.shape == ids.second.shape == (3, 77)
    assert ids.first.dtype.name == "int64"
    assert (ids.first[:, 0] == begin).all() and (ids.second[:, 0] == begin).all()
    long = ids.first[1]
    assert long[-1] == end and (long != end).sum() == 76, "truncated, the end token kept"
    length = len(first("A cat.")["input_ids"])
    assert (ids.first[0, length:] == end).all(), "the first pads with the end token"
    assert (ids.second[0, length:] == bang).all() and bang != end, "the second pads with `!`"
    assert (ids.first[0, :length] == ids.second[0, :length]).all()
    assert (ids.second[2, 2:] == bang).all()


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=300))
def test_any_text_can_be_tokenized(text):
    ids = prompts.tokenize([text], tokenizer.tokenizers())
    size = len(tokenizer.vocabulary()[0])
    assert ids.first.shape == (1, 77) and ids.first.min() >= 0 and ids.first.max() < size


def test_prompts_whose_ends_are_not_read_are_counted():
    texts = ["A cat.", "word " * 200, "word " * 100]
    every = [Prompt(n, text, 10 * n) for n, text in enumerate(texts)]
    long = prompts.truncated(every, tokenizer.tokenizers())
    assert [prompt.row for prompt in long] == [10, 20]
    (line,) = prompts.doubts(long, 3)
    assert line.startswith("2 of 3 prompts are longer than 77 tokens") and "rows 10, 20" in line
    assert prompts.doubts([], 3) == []


def test_77_tokens_are_not_too_many():
    """75 words of one token between the two marks."""
    words = ["a"] * 75
    ends = [Prompt(0, " ".join(words), 0), Prompt(1, " ".join([*words, "a"]), 1)]
    assert prompts.truncated(ends, tokenizer.tokenizers()) == ends[1:]
