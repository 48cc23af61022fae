"""`train.py` as typed: what it plans, and mistakes it names."""


def test_the_plan_says_what_is_done_and_trains_nothing(cli, tmp_path):
    done = cli("train=unet", "plan=true", script="train.py")
    assert done.code == 0, done.err
    assert done.json["plan"]["steps_done"] == 0
    assert done.json["plan"]["samples"] == done.json["plan"]["steps"] * 32
    assert not (tmp_path / "store" / "training").exists()


def test_mistakes_are_named_with_the_line_to_type(cli):
    wrong = cli("train=vae", "train.size=60", script="train.py")
    assert wrong.code == 2 and "multiple of 8" in wrong.err
    never = cli("train=vae", "train.evaluate_every=0", script="train.py")
    assert never.code == 2 and "evaluate_every" in never.err
    few = cli("train=clip", "train.scenes=100", script="train.py")
    assert few.code == 2 and "more than the 512" in few.err
    unknown = cli("train=vea", script="train.py")
    assert unknown.code == 2 and "vae" in unknown.err
