"""Progress goes where it is told to, and nowhere else."""

from sdxl.core import progress
from sdxl.core.progress import Count, Progress


def test_a_listener_is_told_and_the_terminal_stays_silent(capsys):
    told = []
    with Progress("tiny", told.append) as shown:
        shown.say("loading")
        shown.report({"phase": "measuring", "done": 2, "issued": 3, "expected": 8})
    assert told[0] == "loading " and told[1].startswith("measuring 2/8 images")
    assert capsys.readouterr() == ("", "")


def test_without_a_terminal_a_phase_is_one_line_and_a_count_has_its_last(capsys):
    with Progress("tiny") as shown:
        count = Count("calibration", 3, shown.report, done=1)
        count.advance()
        count.advance()
        shown.say("building")
    first, last, building = capsys.readouterr().err.splitlines()
    assert first == "tiny: calibration" and building == "tiny: building"
    assert last.startswith("tiny: calibration: 3/3 prompts, ") and last.endswith("0:00 left")


def test_facts_come_from_time_to_time(capsys, monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.0)
    with Progress("tiny") as shown:
        for done in (1, 2):
            shown.report({"phase": "exporting", "text": f"layer {done}"})
    assert capsys.readouterr().err.splitlines()[1:] == [
        "tiny: exporting: layer 1", "tiny: exporting: layer 2",
    ]  # fmt: skip
