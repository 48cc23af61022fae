"""Ranges of numbers: there is one for each, and nothing outside of it is accepted."""

import dataclasses
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdxl.config import plugins, ranges, schema
from sdxl.config.ranges import Range
from sdxl.config.schema import train
from sdxl.core.errors import ConfigError

NODES = [
    ("", schema.Config),
    *(
        (f"{name}.", hint)
        for name, hint in typing.get_type_hints(schema.Config).items()
        if dataclasses.is_dataclass(hint)
    ),
    ("cost.", schema.Cost),
    ("train.", train.Training),
    ("train.", train.Lora),
    ("train.", train.Sd2),
    *((f"{group}.", node) for group, found in schema.GROUPS.items() for node in found.values()),
    *(("backend.", backend.config) for backend in plugins.backends().values()),
    *(("quality.", option.config) for option in plugins.quality_options().values()),
]
LARGE = st.sampled_from([2**31, 2**63, 2**64, 10**400, 1e300, 1e308, float("inf"), float("nan")])


def every_number():
    for prefix, node in NODES:
        for name, number in ranges.numbers(node, prefix):
            if prefix or name not in schema.QUANT_KEYS:
                yield pytest.param(number, id=f"{node.__name__}.{name}")


def test_every_field_that_holds_a_number_is_found():
    """Counted another way than `numbers` does."""
    for prefix, node in NODES:
        hints = typing.get_type_hints(node)
        names = {n for n, hint in hints.items() if "int" in str(hint) or "float" in str(hint)}
        own = {field.name for field in dataclasses.fields(node)}
        assert {name for name, _ in ranges.numbers(node, prefix)} == {*(names & own)}


@pytest.mark.parametrize("number", every_number())
def test_every_number_has_a_range(number):
    assert number.range is not None, f"{number.key} needs a line in sdxl/config/ranges.py"
    assert number.range.most < 2**53, "a float counts no further"
    for bad in (float("nan"), float("inf"), -float("inf"), 1e300, 2**63, -(2**63)):
        assert not number.range.holds(bad)


def test_no_range_is_of_a_setting_that_is_gone():
    keys = {number.key for prefix, node in NODES for _, number in ranges.numbers(node, prefix)}
    assert not set(ranges.RANGES) - keys


def test_defaults_are_in_their_ranges():
    for prefix, node in NODES:
        usual = {field.name: field.default for field in dataclasses.fields(node)}
        for name, number in ranges.numbers(node, prefix):
            if isinstance(usual[name], int | float) and number.range:
                assert number.range.holds(usual[name]), number.key


@given(st.one_of(st.floats(), st.integers()), st.sampled_from(sorted(ranges.RANGES)))
def test_a_number_outside_is_explained(number, key):
    allowed = ranges.RANGES[key]
    if allowed.holds(number):
        return
    problem = allowed.problem(key, number)
    assert key in problem.what and problem.expected == str(allowed)
    assert len(problem.got or "") < 400


@pytest.mark.parametrize(
    ("allowed", "text"),
    [
        (Range(1, 3), "at least 1, at most 3"),
        (Range(0, 1, above=True, below=True), "more than 0, less than 1"),
        (Range(0, 2**32 - 1), "at least 0, at most 4294967295"),
        (Range(1, 3, choices=(1, 2.5, 3)), "one of 1, 2.5, 3"),
    ],
)
def test_a_range_in_words(allowed, text):
    assert str(allowed) == text


@pytest.mark.parametrize(
    "word",
    [
        "seed=9223372036854775808",
        "model.steps=0",
        "scenario.startup_s=3000000",
        "scenario.stall_s=1e-300",
        "timeout_s=1e308",
        "backend.batch_size=9223372036854775807",
        "scenario.min_query_count=18446744073709551616",
        "scenario.target_qps=1e-300",
        "quality.keep_images=-1",
        "limit=9223372036854775808",
    ],
)
def test_what_libraries_cannot_take_is_refused(load, word):
    key, _, number = word.partition("=")
    with pytest.raises(ConfigError) as caught:
        load("quant=int8", word)
    (problem,) = caught.value.problems
    assert key in problem.what and problem.expected
    assert float(problem.got or "") == float(number)


def test_a_number_outside_hides_no_other_problem(load):
    with pytest.raises(ConfigError) as caught:
        load("quant=int8", "model.steps=0", "seed=-1", "quality.keep_images=5", "mode=accuracy")
    said = [problem.what for problem in caught.value.problems]
    assert len(said) == 3 and "`quality.keep_images` would be ignored" in said[2]


def test_a_number_without_a_range_has_that_of_its_type():
    @dataclasses.dataclass
    class Own(schema.Backend):
        threads: int = 1

    config = Own("own", threads=2**40)
    (problem,) = ranges.problems_of(config, "backend.")
    assert "`backend.threads` is too large" in problem.what
    assert config.threads == 1
