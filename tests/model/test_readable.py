"""Whose fault it is that something cannot be loaded."""

import pytest

from sdxl.core.errors import SdxlError, UserError
from sdxl.model.readable import readable


def lazily():
    """As diffusers' lazy modules say it."""
    try:
        raise ImportError("libx.so: failed to map segment from shared object")
    except ImportError as error:
        raise RuntimeError("Failed to import a.b") from error


@pytest.mark.parametrize(
    "work",
    [lazily, lambda: bytearray(1 << 62), lambda: __import__("nowhere.at_all")],
    ids=["lazily", "memory", "import"],
)
def test_a_machine_without_memory_or_libraries_is_no_bad_file(tmp_path, work):
    place = readable("`unet`", tmp_path, "a folder", "model.path=FOLDER")
    with pytest.raises(SdxlError, match="`unet` cannot be loaded") as caught, place:
        work()
    assert not isinstance(caught.value, UserError)
    assert caught.value.problems[0].fix == "python -m sdxl doctor"


def test_a_bad_file_is(tmp_path):
    place = readable("`unet`", tmp_path, "a folder", "model.path=FOLDER")
    with pytest.raises(UserError) as caught, place:
        {}["config"]
    assert caught.value.problems[0].fix == "model.path=FOLDER"
