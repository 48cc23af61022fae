"""The report in a real browser: its layout, its silence, on paper."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--enable-logging=stderr"]  # fmt: skip
browser = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")


def chromium(file: Path, profile: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    words = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, file.as_uri()]
    return subprocess.run(words, capture_output=True, text=True, timeout=90, check=True)


MEASURE = """<script>addEventListener('load', () => {
  const page = document.documentElement;
  page.dataset.result = JSON.stringify({
    inner: innerWidth, scroll: page.scrollWidth, title: document.title,
    requests: performance.getEntriesByType('resource').map(e => e.name).filter(
      n => !n.startsWith('data:')),
    broken: [...document.images].filter(i => !i.naturalWidth).length,
    wide: [...document.querySelectorAll('main *')].filter(e =>
      e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll, svg')).length,
    cut: [...document.querySelectorAll('.scroll:has(.cards)')].filter(
      e => e.scrollWidth > e.clientWidth + 1).length,
    headings: [...document.querySelectorAll('.cards thead th')].filter(
      e => e.clientHeight > 0).map(e => {
        const text = document.createRange(); text.selectNodeContents(e);
        return new Set([...text.getClientRects()].map(r => Math.round(r.top))).size; }),
    plots: [...document.querySelectorAll('.plot svg')].filter(e => e.clientWidth).length,
  });
});</script>"""


PAPER = 718
"""Pixels between the margins of a sheet of A4."""


@browser
@pytest.mark.parametrize("width", [390, PAPER, 1280, 1400])
def test_layout_in_a_browser(html: str, tmp_path: Path, width: int):
    """A frame of that width, since a headless window cannot be narrower than 500 pixels.

    On paper the printer's rules are in force, and no box can be scrolled.
    """
    if width == PAPER:
        html = html.replace("@media print", "@media all")
    measured = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    (tmp_path / "page.html").write_text(measured.replace("</body>", f"{MEASURE}</body>"))
    (tmp_path / "frame.html").write_text(
        f"<body style='margin:0'><iframe src='page.html' style='border:0;width:{width}px;"
        "height:900px'></iframe><script>addEventListener('load', () => { document.body.dataset"
        ".all = frames[0].document.documentElement.dataset.result })</script>"
    )
    done = chromium(
        tmp_path / "frame.html", tmp_path / "profile", "--dump-dom", "--window-size=1500,1000",
        "--allow-file-access-from-files", "--virtual-time-budget=4000",
    )  # fmt: skip
    stated = re.search(r'data-all="([^"]*)"', done.stdout)
    assert stated, done.stdout[:300]
    found = json.loads(stated[1].replace("&quot;", '"'))
    assert found["inner"] == width
    assert found["scroll"] <= width, "the page scrolls sideways"
    assert found["wide"] == 0
    assert found["requests"] == []
    assert found["broken"] == 0
    assert found["cut"] == 0, "a column of figures is cut off"
    assert set(found["headings"]) == (set() if width == 390 else {1}), "a heading is broken"
    assert found["plots"] == 1  # the drawing of the other width is hidden
    assert "pwned" not in found["title"]
    assert "CONSOLE" not in done.stderr


@browser
def test_the_page_as_it_is_written_is_silent(html: str, tmp_path: Path):
    """With its own policy in force: no console message, and the evil caption is only text."""
    (tmp_path / "page.html").write_text(html)
    done = chromium(tmp_path / "page.html", tmp_path / "profile", "--dump-dom")
    assert "CONSOLE" not in done.stderr
    assert "<title>Which setting should ship?" in done.stdout


@browser
def test_the_page_prints(html: str, tmp_path: Path):
    (tmp_path / "page.html").write_text(html)
    target = tmp_path / "page.pdf"
    chromium(tmp_path / "page.html", tmp_path / "profile", f"--print-to-pdf={target}")
    assert target.read_bytes().startswith(b"%PDF")
