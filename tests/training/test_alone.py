"""One command at a time in a folder: what the first of several processes finds, all say."""

import copy

import pytest

from sdxl.core.errors import UserError
from sdxl.training import alone, machine


def test_a_folder_that_cannot_be_written_ends_all_processes(tmp_path, monkeypatch):
    """Rather than one, for which the others would wait."""
    sent = []
    (tmp_path / "file").touch()
    with monkeypatch.context() as patch, pytest.raises(UserError) as first:
        patch.setattr(machine, "agreed", lambda value: sent.append(value) or value)
        with alone.held(tmp_path / "file", "train.run=ANOTHER_NAME"):
            pytest.fail("held")
    assert "file cannot be written" in str(first.value)
    monkeypatch.setattr(machine, "rank", lambda: 1)
    monkeypatch.setattr(machine, "agreed", lambda _: copy.deepcopy(sent[0]))
    with pytest.raises(UserError) as other, alone.held(tmp_path / "writable", ""):
        pytest.fail("held")
    assert str(other.value) == str(first.value)
    assert not (tmp_path / "writable").exists(), "the first alone looks"
