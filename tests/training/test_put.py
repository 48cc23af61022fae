"""Folders put in place whole, and what killed processes leave beside them."""

from sdxl.training import put


def test_what_a_kill_left_is_swept_and_the_old_folder_comes_back(tmp_path):
    for name in (".model.before.7", ".model.8", ".checkpoint.safetensors.9", ".lock", ".keep.x"):
        (tmp_path / name).mkdir()
    put.sweep(tmp_path, tmp_path / "absent")
    assert sorted(file.name for file in tmp_path.iterdir()) == [".keep.x", ".lock", "model"]
    (tmp_path / ".model.before.7").mkdir()
    put.sweep(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".keep.x", ".lock", "model"]
