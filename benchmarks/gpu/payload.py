"""What travels to a machine without network: packages as one archive, compiled kernels as another.

Wheels are unpacked and compressed together, which makes them smaller, and need no installer there.
Of Triton's cache only machine code and its description are kept, under the paths of the target.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_24_x86_64",
             "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64")  # fmt: skip

SOURCE_ONLY = ("antlr4-python3-runtime",)
"""Pure Python without a wheel on PyPI."""

STUBS = {
    "pulp": '"""Stands for the solver that ModelOpt imports for its own search of mixed formats, '
    'which nothing here calls: 15.6 MiB less to carry."""\n\n\n'
    "def __getattr__(name):\n"
    "    if name.startswith('__'):\n        raise AttributeError(name)\n"
    "    return type(name, (), {})\n",
}
"""Modules in the place of packages that are imported and not used."""

KEPT = (".cubin", ".json")
LAUNCHER = "__triton_launcher"
HOST = (LAUNCHER, "cuda_utils")
"""Compiled for the machine's Python: what starts kernels, in Triton up to 3.6."""
PRESET = 9


def pins(file: Path) -> list[str]:
    """Requirements of a list, comments aside."""
    lines = (line.split("#")[0].strip() for line in file.read_text().splitlines())
    return [line for line in lines if line]


def fetch(wanted: list[str], python: str, folder: Path) -> list[Path]:
    """Wheels of exactly these versions for another Python on Linux, by pip."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    built = [line for line in wanted if line.split("==")[0] in SOURCE_ONLY]
    made = [line for line in wanted if line not in built]
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    for_there = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp",
                 *platforms]  # fmt: skip
    if made:
        subprocess.run([*pip, "download", "--no-deps", *for_there, "--dest", folder, *made],
                       check=True)  # fmt: skip
    if built:
        subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, *built], check=True)
    return sorted(folder.glob("*.whl"))


def unpack(wheels: list[Path], site: Path) -> None:
    """As an installer would lay them out; scripts and tests are left out."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as opened:
            for name in opened.namelist():
                parts = Path(name).parts
                if parts[0].endswith(".data"):
                    if parts[1] not in ("purelib", "platlib"):
                        continue
                    parts = parts[2:]
                if not parts or name.endswith("/"):
                    continue
                target = site.joinpath(*parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(name) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file)
    for name, text in STUBS.items():
        (site / f"{name}.py").write_text(text)


def archive(folder: Path, file: Path) -> int:
    """A folder's content as .tar.xz, in an order that depends on names alone; its bytes."""
    with tarfile.open(file, "w:xz", preset=PRESET) as made:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                made.add(path, path.relative_to(folder), recursive=False)
    return file.stat().st_size


def kernels(cache: Path, target: str, folder: Path) -> int:
    """Triton's cache as it must lie in `target` on the other machine; the number of kernels."""
    count = 0
    for group in cache.glob("*/__grp__*.json"):
        paths = json.loads(group.read_text())["child_paths"]
        kept = {name: path for name, path in paths.items() if name.endswith(KEPT)}
        if not any(name.endswith(".cubin") for name in kept):
            continue
        there = folder / group.parent.name
        there.mkdir(parents=True, exist_ok=True)
        for name, path in kept.items():
            shutil.copyfile(group.parent / Path(path).name, there / name)
        moved = {name: f"{target}/{group.parent.name}/{name}" for name in kept}
        (there / group.name).write_text(json.dumps({"child_paths": moved}))
        count += 1
    for name in HOST:
        for file in cache.glob(f"*/{name}*.so"):
            there = folder / file.parent.name
            there.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, there / file.name)
    return count


def tree_bytes(root: Path) -> int:
    """What git would carry: tracked files and new ones that it does not ignore."""
    line = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(line, cwd=root, capture_output=True, check=True)
    files = (root / name for name in done.stdout.decode().split("\0") if name)
    return sum(file.stat().st_size for file in files if file.is_file())


def make(
    lists: list[Path], out: Path, python: str, cache: Path | None, target: str
) -> dict[str, int]:
    """Archives in `out` by name with their bytes."""
    out.mkdir(parents=True, exist_ok=True)
    sizes = {}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for folder in ("wheels", "site", "triton"):
            (work / folder).mkdir()
        wanted = [line for each in lists for line in pins(each)]
        unpack(fetch(wanted, python, work / "wheels"), work / "site")
        sizes["site.tar.xz"] = archive(work / "site", out / "site.tar.xz")
        if cache:
            found = kernels(cache, target, work / "triton")
            print(f"{found} compiled kernels from {cache}")
            sizes["triton.tar.xz"] = archive(work / "triton", out / "triton.tar.xz")
    return sizes
