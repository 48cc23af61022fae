"""Where things lie: the package, what comes with it, the project around it."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
"""The folder `sdxl`."""


def _root() -> Path:
    """The checkout, where there is one; otherwise (an installed wheel) the current folder."""
    checkout = PACKAGE.parent
    return checkout if (checkout / "conf" / "base.yaml").is_file() else Path.cwd()


ROOT = _root()
"""The project: `multirun/`, `mlflow.db`; in a checkout the entry points too."""

CONF = ROOT / "conf" if (ROOT / "conf" / "base.yaml").is_file() else PACKAGE / "conf"
"""The configuration groups; a wheel carries them inside the package."""

ASSETS = PACKAGE / "assets"
"""What comes with the package."""

PROMPTS = ASSETS / "prompts.txt"
"""The built-in captions, one a line."""

BUNDLED = ASSETS / "scenes"
"""The bundled model, a diffusers folder."""

JUDGE = BUNDLED / "judge"
"""The networks that score pictures of scenes."""
