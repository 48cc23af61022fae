"""A folder that appears whole or not at all."""

import pytest

from sdxl.core.errors import SdxlError
from sdxl.run.pack import folder


def test_what_fails_leaves_no_folder_that_was_not_there(tmp_path):
    target = tmp_path / "new" / "deep" / "pack"
    with pytest.raises(SdxlError, match="on purpose"), folder.writing(target):
        raise SdxlError("on purpose")
    assert list(tmp_path.iterdir()) == []


def test_folders_of_others_stay(tmp_path):
    target = tmp_path / "new" / "deep" / "pack"
    with pytest.raises(SdxlError), folder.writing(target):
        (tmp_path / "new" / "notes.txt").write_text("somebody's")
        raise SdxlError("on purpose")
    assert [each.name for each in (tmp_path / "new").iterdir()] == ["notes.txt"]
    with pytest.raises(SdxlError), folder.writing(tmp_path / "new" / "pack"):
        raise SdxlError("on purpose")
    assert (tmp_path / "new").is_dir()


def test_what_is_whole_appears_with_its_sums(tmp_path):
    target = tmp_path / "new" / "pack"
    with folder.writing(target) as work:
        (work / "pack" / "a.txt").write_text("a")
    assert sorted(each.name for each in target.iterdir()) == [folder.SUMS, "a.txt"]
    assert [each.name for each in target.parent.iterdir()] == ["pack"]
