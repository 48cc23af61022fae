"""What cells are called: everything that tells those of one group apart."""

import json

from sdxl.report.cells import load
from tests.sweep_of_records import CONFIG, record


def named(folder, *settings):
    """The labels of records with these (steps, shortcut), beside one reference of 20 steps."""
    return labels(folder, [
        {"shortcut": {"name": shortcut}, "quality": {"reference_steps": 20},
         "model": {**CONFIG["model"], "steps": steps}} for steps, shortcut in settings
    ])  # fmt: skip


def labels(folder, changes):
    """The labels of records whose configurations differ in these."""
    for number, change in enumerate(changes):
        config = {**CONFIG, **change}
        (folder / str(number)).mkdir()
        text = json.dumps(record(config=config))
        (folder / str(number) / "record.json").write_text(text)
    (cells,) = load([folder]).groups.values()
    return [cell.label for cell in cells]


def test_cells_of_several_numbers_of_steps_in_one_group_say_theirs(tmp_path):
    found = named(tmp_path, (12, "none"), (20, "none"), (12, "tgate"))
    assert found == [
        "fp16 12 steps shortcut none", "fp16 20 steps shortcut none", "fp16 12 steps shortcut tgate"
    ]  # fmt: skip


def test_cells_that_nothing_tells_apart_all_have_their_number(tmp_path):
    assert named(tmp_path, (20, "none"), (20, "none")) == ["fp16 (#1)", "fp16 (#2)"]


def test_a_setting_of_one_backend_names_the_cells_among_which_it_differs(tmp_path):
    """`execution` says nothing of an unquantized cell, `threads` of a backend of one value."""
    found = labels(tmp_path, [
        {"backend": {"name": "torch", "threads": 4, "execution": "simulated"}},
        {"backend": {"name": "torch", "threads": 4, "execution": "real"}, "seed": 9},
        {"backend": {"name": "ort", "threads": None, "provider": "cpu"}},
        {"backend": {"name": "ort", "threads": None, "provider": "cuda"}},
    ])  # fmt: skip
    assert [each.split(" seed ")[0] for each in found] == [
        "torch fp16", "torch fp16", "ort fp16 provider cpu", "ort fp16 provider cuda"
    ]  # fmt: skip
