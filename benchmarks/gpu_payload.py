"""Pack what the measuring session needs on a machine without network, and say how large it is.

    python benchmarks/gpu_payload.py --out payload
    python benchmarks/gpu_payload.py --out payload --fa3 --triton-cache CACHE

The machine has PyTorch, Triton, transformers and the rest of `gpu_wheels.txt`'s first comment. The
session makes its statistics itself. `--triton-cache`: a folder that
`TRITON_CACHE_DIR=CACHE python benchmarks/compile_kernels.py --session --target 90` has filled, with
the very Triton of the machine. Ends with 1 if the tree and the payload are more than `--limit-mib`
together.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.gpu import payload  # noqa: E402

LEAN = ROOT / "benchmarks" / "gpu_wheels.txt"
FA3 = ROOT / "benchmarks" / "gpu_wheels_fa3.txt"
SITE, TRITON = "/tmp/sdxl-site", "/tmp/sdxl-triton"
MIB = 1 << 20

THERE = """
{out}/ must travel with the tree: git ignores it, so it must be named (`carry`, or a copy by hand).
On the machine, in the folder of the tree:
  mkdir -p {site} {triton} &&
  python3 -m tarfile -e {out}/site.tar.xz {site} &&
{unpack}  export PYTHONPATH={site} TRITON_CACHE_DIR={triton} &&
  python3 benchmarks/gpu_session.py --out /tmp/gpu --copy RESULTS --deadline-s 560
"""

KERNELS = "  python3 -m tarfile -e {out}/triton.tar.xz {triton} &&\n"


def lines(out: Path, cache: bool) -> str:
    """What to type on the machine, where the archives lie in the tree as they do here.

    Raises `ValueError` if `out` is outside of the tree, which alone travels.
    """
    folder = out.resolve()
    if not folder.is_relative_to(ROOT):
        raise ValueError(f"{out} is outside of the tree, {ROOT}, and would stay here")
    words = {"site": SITE, "triton": TRITON, "out": folder.relative_to(ROOT)}
    return THERE.format(**words, unpack=KERNELS.format(**words) if cache else "")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "payload")
    parser.add_argument("--python", default="3.12", help="the machine's Python")
    parser.add_argument("--fa3", action="store_true", help="FlashAttention 3 as well (11 MiB)")
    parser.add_argument("--triton-cache", type=Path, help="compiled kernels")
    parser.add_argument("--limit-mib", type=float, default=60.0)
    asked = parser.parse_args()
    lists = [LEAN, *([FA3] if asked.fa3 else [])]
    sizes = payload.make(lists, asked.out, asked.python, asked.triton_cache, TRITON)
    sizes = {"the tree": payload.tree_bytes(ROOT), **sizes}
    for name, size in sizes.items():
        print(f"{size / MIB:8.1f} MiB  {name}")
    total = sum(sizes.values()) / MIB
    print(f"{total:8.1f} MiB  together, {asked.limit_mib:g} allowed")
    if total > asked.limit_mib:
        print("too much: leave out --fa3 or --triton-cache", file=sys.stderr)
        return 1
    try:
        print(lines(asked.out, asked.triton_cache is not None))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
