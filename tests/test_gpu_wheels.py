"""The wheels for a GPU machine without network: the tested versions, and nothing missing."""

from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

THERE = ("torch", "triton", "numpy", "scipy")
"""What such a machine has, with all that these need."""
OPTIONAL = {"hf-xet"}
"""Named as needed by what it only speeds up: downloads, of which there are none."""


def pins(file):
    lines = [line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    pairs = (line.split("==") for line in lines if "==" in line)
    return {canonicalize_name(name): version for name, version in pairs}


def with_needs(names):
    """The packages and all that they require here, extras aside."""
    found, left = set(), {canonicalize_name(name) for name in names}
    while left:
        name = left.pop()
        found.add(name)
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # what a CUDA build of torch brings
            continue
        needed = [Requirement(line) for line in lines]
        here = [r for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
        left |= {canonicalize_name(r.name) for r in here} - found
    return found


def test_versions_are_the_tested_ones():
    wheels, tested = pins("benchmarks/gpu_wheels.txt"), pins("constraints.txt")
    assert len(wheels) > 20
    assert {name: version for name, version in wheels.items() if tested.get(name) != version} == {}


def test_nothing_that_they_need_is_missing():
    listed = set(pins("benchmarks/gpu_wheels.txt"))
    assert with_needs(listed) - listed - with_needs(THERE) - OPTIONAL == set()
    some = listed - {"pyyaml", "packaging"}
    assert {"pyyaml", "packaging"} <= with_needs(some) - some
