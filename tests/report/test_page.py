"""The page: templates that escape and do not guess, its plot, its pictures."""

from __future__ import annotations

import re

import numpy as np
import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from sdxl.report import plots
from sdxl.report.cells import Cells
from sdxl.report.html.page import breakable, templates
from sdxl.report.html.pictures import GAIN, difference


def test_templates_escape_text_and_attributes():
    shown = templates().from_string('<p title="{{ title }}">{{ text }}{{ markup }}</p>')
    made = shown.render(title='"&', text="<b>", markup=Markup("<i>"))
    assert made == '<p title="&#34;&amp;">&lt;b&gt;<i></p>'
    assert breakable("a/<b>.c") == "a/<wbr>&lt;b&gt;.<wbr>c"


def test_templates_do_not_guess():
    with pytest.raises(UndefinedError):
        templates().from_string("{{ misspelt }}").render()


def test_the_plot_of_the_page_is_the_one_of_the_png_files(found: Cells, html: str):
    """Two sizes of one drawing: text in the page's colour, a title for each mark, ids once."""
    wide, narrow = re.findall(r'<svg class="(?:wide|narrow)".*?</svg>', html, re.DOTALL)
    scatter = plots.scatter_of(next(iter(found.groups.values())))
    assert scatter and len(scatter.points) == 5 and len(scatter.missing) == 1
    for drawn in (wide, narrow):
        assert "currentColor" in drawn and "var(--accent)" in drawn
        assert not re.search("#[0-9a-f]{6}", drawn), "no colour that the dark page cannot change"
        for cell, _ in scatter.points:
            assert f"<title>{cell.number} {cell.label}: " in drawn
            assert f">{cell.number}</text>" in drawn
    ids = re.findall(r' id="([^"]*)"', html)
    assert len(ids) == len(set(ids))


def test_difference_is_amplified_and_does_not_wrap():
    black, white = np.zeros((1, 1, 3), np.uint8), np.full((1, 1, 3), 255, np.uint8)
    assert difference(black, white).item() == difference(white, black).item() == 255
    assert difference(black, black + 2).item() == 2 * GAIN
