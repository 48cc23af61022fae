"""The README's pictures, made anew.   python docs/pictures.py [--sweep DIR --uri URI]

Runs the README's sweep (unless it is given one and its MLflow store), then draws the Pareto plot,
the picture grid as the report shows it, and MLflow's comparison of the cells in a real browser.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from PIL import Image, ImageChops

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
DOCS = ROOT / "docs"
SWEEP = "+sweep=ship limit=16 calib_size=8"
ONLY_GRID = (
    "<style>main > :not(section), section > :not(.grid), .grid > :not(.scroll), "
    "section:not(:has(.grid)) {display: none} section {border: 0} main {max-width: none}</style>"
)
COMPARISON = (196, 8, 1094, 1272)
"""MLflow's middle column in a window of 1500 pixels, without its panes at the sides."""
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")


def main() -> None:
    """Make `pareto.png`, `grid.png` and `mlflow.png`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweep", type=Path, help="a finished sweep's folder")
    parser.add_argument("--uri", help="the MLflow store that has it")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        folder, uri = asked.sweep or work / "sweep", asked.uri or f"sqlite:///{work / 'mlflow.db'}"
        if not asked.sweep:
            words = [*SWEEP.split(), f"hydra.sweep.dir={folder}", f"tracking.uri={uri}"]
            subprocess.run([sys.executable, str(ROOT / "run.py"), "-m", *words], check=True)
        report = [sys.executable, "-m", "sdxl", "report", str(folder)]
        page = work / "report.html"
        made = ["--html", str(page), "--png", str(work), "--prompts", "2"]
        subprocess.run([*report, *made], check=True, cwd=ROOT)
        shrink(work / "pareto-1.png", DOCS / "pareto.png", 900)
        grid(page, work)
        mlflow(uri, work)


def grid(page: Path, work: Path) -> None:
    """The report's pictures, without the rest of the page."""
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    (work / "grid.html").write_text(html.replace("</head>", f"{ONLY_GRID}</head>"))
    screenshot((work / "grid.html").as_uri(), work / "grid.png", "1500,1100", work)
    shrink(work / "grid.png", DOCS / "grid.png", 1000)


def mlflow(uri: str, work: Path) -> None:
    """MLflow's page of charts that compares the cells of the newest sweep."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("sdxl").experiment_id
    parents = client.search_runs([experiment], "tags.sweep = 'true'", max_results=1)
    inside = f"tags.mlflow.parentRunId = '{parents[0].info.run_id}'"
    cells = client.search_runs([experiment], f"{inside} and tags.status = 'ok'")
    server = subprocess.Popen(
        [sys.executable, "-m", "sdxl", "mlflow", "ui"], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, "MLFLOW_TRACKING_URI": uri},
    )  # fmt: skip
    try:
        address = re.search(r"http://127.0.0.1:\d+", server.stdout.readline())[0]
        wait_for(f"{address}/health")
        runs = json.dumps([run.info.run_id for run in cells])
        where = f"{address}/#/compare-runs?runs={runs}&experiments={json.dumps([experiment])}"
        screenshot(where, work / "whole.png", "1500,1300", work, "--virtual-time-budget=60000")
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
    Image.open(work / "whole.png").crop(COMPARISON).save(work / "mlflow.png")
    shrink(work / "mlflow.png", DOCS / "mlflow.png", 900)


def wait_for(address: str) -> None:
    """Until a server answers; three minutes at most."""
    until = time.monotonic() + 180
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def screenshot(address: str, target: Path, size: str, work: Path, *flags: str) -> None:
    """A page as Chromium draws it."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    assert browser, "install chromium"
    words = [browser, *FLAGS, f"--user-data-dir={work / 'profile'}", f"--window-size={size}"]
    subprocess.run([*words, *flags, f"--screenshot={target}", address], check=True, timeout=300)


def shrink(source: Path, target: Path, width: int) -> None:
    """Cut the empty border, scale down to `width` pixels, keep few colours: pages load fast."""
    picture = Image.open(source).convert("RGB")
    empty = Image.new("RGB", picture.size, picture.getpixel((0, 0)))
    if box := ImageChops.difference(picture, empty).getbbox():
        left, top, right, bottom = box
        right, bottom = min(picture.width, right + 8), min(picture.height, bottom + 8)
        picture = picture.crop((max(0, left - 8), max(0, top - 8), right, bottom))
    if picture.width > width:
        picture = picture.resize((width, picture.height * width // picture.width), Image.LANCZOS)
    picture.quantize(128).save(target, optimize=True)
    print(f"{target.relative_to(ROOT)}: {picture.size}, {target.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
