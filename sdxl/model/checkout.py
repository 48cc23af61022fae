"""`model.diffusers_src`: a checkout of diffusers in place of the installed one."""

from __future__ import annotations

import sys
from pathlib import Path

from sdxl.config.schema import Model
from sdxl.core import forking, store
from sdxl.core.errors import UserError


def use(model: Model) -> None:
    """Import diffusers from the model's checkout, if it has one; before anything imports it.

    Raises `UserError` for a folder without diffusers, or where another one is in use already.
    """
    if not model.diffusers_src:
        return
    package = _package(model.diffusers_src)
    if package is None:
        raise UserError(
            "`model.diffusers_src` is no diffusers checkout", model.diffusers_src,
            "a folder with src/diffusers/",
        )  # fmt: skip
    there = sys.modules.get("diffusers")
    if there is None:
        sys.path.insert(0, str(package.parent))
    elif Path(str(there.__file__)).parent != package:
        raise UserError(
            "diffusers was imported before its checkout was chosen",
            f"{Path(str(there.__file__)).parent}, then {package}",
            "one diffusers in a process: a command of its own for each",
        )


def preloaded(model: Model, torch_needed: bool, module: str) -> tuple[str, ...]:
    """What the processes that run `module` are forked with.

    Nothing beside a checkout: it must be the first diffusers that they import.
    """
    if model.diffusers_src:
        return ()
    return (*(forking.LIBRARIES if torch_needed else ()), module)


def identity(model: Model) -> dict[str, str]:
    """Fingerprint of the code for content keys; nothing without a checkout.

    Of the package's modules alone: importing them writes __pycache__, and .git changes by itself.
    """
    if not model.diffusers_src:
        return {}
    package = _package(model.diffusers_src)
    return {"diffusers_src": store.fingerprint(package, "*.py") if package else ""}


def _package(path: str) -> Path | None:
    root = store.resolve(path).resolve()
    packages = (root / "src/diffusers", root / "diffusers")
    return next((each for each in packages if (each / "__init__.py").is_file()), None)
