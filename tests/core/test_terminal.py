"""The console and the table that every command shares."""

from __future__ import annotations

import pytest

from sdxl.core import terminal

MARKED = "[red]not red[/red] [/] :smile: https://x [link=file:///etc/passwd]here[/link]"


def test_text_from_outside_is_shown_as_it_is(capsys: pytest.CaptureFixture):
    console = terminal.console()
    console.print(MARKED)
    console.print(terminal.table(("a", MARKED), [("1", MARKED)], MARKED, ("a",)))
    console.print(terminal.table((), [("name", MARKED)]))
    out = capsys.readouterr().out
    assert out.count(MARKED) == 5
    assert "\x1b" not in out


def test_lines_of_a_file_are_as_wide_as_asked(capsys: pytest.CaptureFixture):
    terminal.console(stderr=True, width=30).print(terminal.table(("word",), [("x" * 100,)]))
    printed = capsys.readouterr()
    assert not printed.out
    assert max(map(len, printed.err.splitlines())) == 30
    assert printed.err.count("x") == 100, "long words are broken, not cut"


def test_numbers_stand_at_the_right(capsys: pytest.CaptureFixture):
    rows = [("a", "1"), ("b", "123456")]
    terminal.console().print(terminal.table(("word", "number"), rows, right=("number",)))
    lines = capsys.readouterr().out.splitlines()
    assert any(line.endswith("      1 │") for line in lines)
