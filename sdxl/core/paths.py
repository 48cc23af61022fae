"""Where things lie: the package, what comes with it, the project around it."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
"""The folder `sdxl`."""


DISTRIBUTION = "sdxl-bench"
"""The package's name where packages are installed."""

IN_CHECKOUT = (PACKAGE.parent / "conf" / "base.yaml").is_file()
"""Whether this is a checkout with its entry points; otherwise an installed wheel."""

ROOT = PACKAGE.parent if IN_CHECKOUT else Path.cwd()
"""Where results go, `multirun/` and `mlflow.db`: the checkout, or the current folder."""

BESIDE = ROOT if IN_CHECKOUT else PACKAGE
"""Where `conf/` and the tested set of versions lie; a wheel carries them inside the package."""

CONF = BESIDE / "conf"
"""The configuration groups."""

CONSTRAINTS = BESIDE / "constraints.txt"
"""The tested versions."""

ASSETS = PACKAGE / "assets"
"""What comes with the package."""

PROMPTS = ASSETS / "prompts.txt"
"""The built-in captions, one a line."""

BUNDLED = ASSETS / "scenes"
"""The bundled model, a diffusers folder."""

STUDENT = ASSETS / "scenes_4step"
"""UNet and scheduler of the bundled model's student, which draws in four steps."""

JUDGE = BUNDLED / "judge"
"""The networks that score pictures of scenes."""


def program(name: str) -> list[str]:
    """How a command is typed here: `python run.py` in a checkout, else `sdxl run`."""
    return ["python", f"{name}.py"] if IN_CHECKOUT else ["sdxl", name]


def store_root() -> Path:
    """The store's folder."""
    return Path(os.environ.get("SDXL_STORE") or "~/.cache/sdxl").expanduser()
