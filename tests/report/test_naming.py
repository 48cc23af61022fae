"""What cells are called: everything that tells those of one group apart."""

import json

from sdxl.report.cells import load
from tests.sweep_of_records import CONFIG, record


def named(folder, *settings):
    """The labels of records with these (steps, shortcut), beside one reference of 20 steps."""
    for number, (steps, shortcut) in enumerate(settings):
        config = {**CONFIG, "shortcut": {"name": shortcut}, "quality": {"reference_steps": 20}}
        config["model"] = {**CONFIG["model"], "steps": steps}
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
