"""The console and the table that every command shares."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdxl.core import command, errors, progress, terminal
from sdxl.core.errors import UserError
from tests.conftest import ROOT

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


HOSTILE = "\x1b]0;owned\x07\x1b[31mred\x9b2J \u202etxt.exe\u2066 \x00\r\x08 \ud800 \x7f"


@given(st.text())
def test_what_a_terminal_would_obey_is_shown(text):
    shown = terminal.printable(text)
    assert not {*map(chr, (*range(9), *range(11, 32), *range(127, 160)))} & {*shown}
    assert terminal.printable(shown) == shown
    shown.encode()


def test_ordinary_text_stays_as_it_is():
    text = "Ein Kätzchen, 猫 🐈\n\tnaïve [bold] \\x1b"
    assert terminal.printable(text) == text


def test_hostile_text_is_harmless_on_every_way_to_the_terminal(capsys: pytest.CaptureFixture):
    console = terminal.console()
    console.print(HOSTILE)
    console.print(HOSTILE, style="bold")
    console.print(terminal.table(("a", HOSTILE), [("1", HOSTILE)], HOSTILE))
    errors.show(UserError(HOSTILE, HOSTILE, HOSTILE, HOSTILE))
    with progress.Progress(HOSTILE) as shown:
        shown.report({"phase": HOSTILE, "text": HOSTILE, "done": 1, "expected": 1})
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        command.shown(error)
    printed = capsys.readouterr()
    both = printed.out + printed.err
    assert "owned" in both and "\\x1b" in both
    assert not {letter for letter in HOSTILE if not letter.isprintable()} & {*both}


PRINTING = {
    "sdxl/__main__.py", "sdxl/cli.py", "sdxl/core/terminal.py", "sdxl/core/command.py",
    "sdxl/core/preload.py", "sdxl/report/mlflow/process.py",
}  # fmt: skip
"""Help, the JSON line, messages between processes, a server that imports nothing of ours."""


def test_every_line_for_people_goes_through_here(capsys: pytest.CaptureFixture):
    """Text from outside could be in any of them."""
    terminal.tell("a\x1b[31mb")
    assert capsys.readouterr().out == "a\\x1b[31mb\n"
    for path in (ROOT / "sdxl").rglob("*.py"):
        name = str(path.relative_to(ROOT))
        if name not in PRINTING and not name.startswith("sdxl/assets/"):
            calls = [node for node in ast.walk(ast.parse(path.read_text())) if _prints(node)]
            assert not calls, f"{name}:{calls[0].lineno} prints: terminal.say or terminal.tell"


def _prints(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
