"""Caption files that people have: every caption is read as it stands, or refused with its line."""

import pytest

from sdxl.config import schema
from sdxl.core.errors import UserError
from sdxl.model import caption_files, prompts

HEADER = "id\tcaption\n"
CUBE, SPHERE = ("a red cube", "0"), ("a blue sphere", "1")


@pytest.fixture
def told(tmp_path):
    """What is said of a file's content."""

    def tell(content, name="captions.tsv"):
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(UserError) as caught:
            caption_files.read(file)
        return str(caught.value)

    return tell


@pytest.fixture
def read(tmp_path):
    def from_content(content, name="captions.tsv"):
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return caption_files.read(file)

    return from_content


def test_quotes_that_never_close_swallow_no_rows(told):
    said = told(HEADER + '0\t"a red cube\n1\ta blue sphere\n2\t"a green cone\n3\ta cylinder\n')
    assert "line 2: a quote that does not close" in said
    assert "line 4: a quote" in said and "line 3" not in said


def test_quotes_of_a_part_are_not_dropped(told):
    """csv reads `"Welcome" says` as `Welcome says`."""
    said = told(HEADER + '0\t"Welcome" says a red cube\n1\ta cylinder that says "Bye"\n')
    assert "line 2: text after a closing quote" in said and "line 3" not in said


def test_a_quote_inside_is_a_quote(read):
    assert read(HEADER + '0\ta 5" red cube\n1\tit says "Bye"\n') == [
        ('a 5" red cube', "0"), ('it says "Bye"', "1"),
    ]  # fmt: skip


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_marks_of_every_kind(read, end, mark):
    assert read(mark + f"id\tcaption{end}0\ta red cube{end}1\ta blue sphere{end}") == [CUBE, SPHERE]
    assert read(mark + f"a red cube{end}a blue sphere", "p.txt") == [(CUBE[0], ""), (SPHERE[0], "")]


@pytest.mark.parametrize("separator", ["\u2028", "\x0b", "\x85", "\x1c"])
def test_what_python_takes_for_line_ends_is_text(read, separator):
    assert read(f"a{separator}b\n", "p.txt") == [(f"a{separator}b", "")]


def test_an_index_column_without_a_name(read):
    assert read("\tid\tcaption\n5\t0\ta red cube\n6\t1\ta blue sphere\n") == [CUBE, SPHERE]


def test_equal_ids_are_rows_of_their_own(read):
    assert len(read(HEADER + "7\ta red cube\n7\ta blue sphere\n7\ta red cube\n")) == 3


def test_other_scripts_and_emoji(read):
    lines = "a cube \U0001f600 \U0001f469\u200d\U0001f680\nمكعب أحمر\n"
    assert [text for text, _ in read(lines, "p.txt")] == lines.splitlines()


@pytest.mark.parametrize(("caption", "said"), [
    ("\u200b\u200b", "empty caption"), ("a\0b red cube", "NUL"), (" ", "empty caption"),
])  # fmt: skip
def test_captions_that_show_nothing(told, caption, said):
    assert f"line 3: {said}" in told(HEADER + f"0\ta red cube\n1\t{caption}\n").replace(
        "a NUL", "NUL"
    )
    assert f"line 1: {said}" in told(f"{caption}\na cube\n", "p.txt")


def test_blank_lines_are_named_unless_they_end_the_file(told, read):
    assert "line 3: 0 columns of 2" in told(HEADER + "0\ta red cube\n\n1\ta blue sphere\n")
    assert "line 2: empty caption" in told("a red cube\n\na blue sphere\n", "p.txt")
    assert read("a red cube\n\n \n", "p.txt") == [("a red cube", "")]


@pytest.mark.parametrize(("content", "said"), [
    ("id\tcaption\tcaption\n0\ta\tb\n", "2 columns are called `caption`"),
    ("id\tid\tcaption\n0\t1\tb\n", "2 columns are called `id`"),
    ("ID\tCaption\n0\ta red cube\n", "`Caption` is not it"),
    ("id\t caption \n0\ta red cube\n", "` caption ` is not it"),
    ("id,caption\n0,a red cube\n", "no `caption` column"),
])  # fmt: skip
def test_columns_that_are_double_or_called_otherwise(told, content, said):
    assert said in told(content) and "line 1" in told(content)


@pytest.mark.parametrize(("encoding", "said"), [
    ("utf-16", "iconv -f UTF-16"), ("latin-1", "line 2"), ("cp1252", "iconv -f WINDOWS-1252"),
])  # fmt: skip
def test_other_encodings_are_named_with_the_line_that_converts(told, encoding, said):
    assert said in told((HEADER + "0\tcafé\n").encode(encoding))
    assert "not UTF-8" in told("a cube\ncafé\n".encode(encoding), "p.txt")


@pytest.mark.parametrize("name", ["p.csv", "p.json", "p.JSONL"])
def test_other_kinds_of_files_are_not_taken_line_by_line(told, name):
    assert "one caption a line (.txt), or a .tsv" in told("a cube\n", name)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_no_caption_at_all(told, content):
    assert "no captions" in told(content, "p.txt")


def test_rows_that_only_fill_a_file_up_are_dropped_and_counted(tmp_path):
    path = tmp_path / "padded.tsv"
    rows = [(9, 1, "a"), (9, 2, "b"), (7, 3, "c"), (7, 3, "c"), (7, 0, "c"), (7, 0, "c")]
    path.write_text("image_id\tid\tcaption\n" + "".join(f"{i}\t{n}\t{c}\n" for i, n, c in rows))
    assert caption_files.read_padded(path) == ([("a", "1"), ("b", "2"), ("c", "3")], 3)
    assert len(caption_files.read_tsv(path)) == 6, "who did not say so gets all"
    given = schema.TsvDataset("coco_30k", path=str(path), padded=True)
    assert [(p.index, p.source_id) for p in prompts.load(given)] == [(0, "1"), (1, "2"), (2, "3")]
    path.write_text("id\tcaption\n0\tx\n")
    with pytest.raises(UserError, match="fillers only"):
        caption_files.read_padded(path)
