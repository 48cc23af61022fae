"""Keys: whatever can change a figure is in them, also what lies in files and in the package."""

import pytest

from sdxl.config.schema import Mode, Rerun
from sdxl.core import paths, records
from sdxl.core.record import Performance
from sdxl.run import identity, ledger


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Put a bundled model in place whose UNet and whose judge hold these bytes."""

    def put(unet, judge):
        folder = tmp_path / f"{unet}-{judge}"
        for name, text in (("unet", unet), ("judge", judge)):
            (folder / name).mkdir(parents=True)
            (folder / name / "weights.safetensors").write_text(text)
        monkeypatch.setattr(paths, "JUDGE", folder / "judge")

    return put


def test_other_weights_in_the_package_are_another_measurement(load, package, tmp_path):
    config, other = load("model=scenes", "quality=none"), load("model=tiny_random", "quality=none")
    package("old", "same")
    record = identity.new(config)
    record.status = "ok"
    ledger.remember(record, records.write(record, tmp_path / "cell"))
    before = [key(config) for key in (identity.artifact_key, identity.pair_key)]
    untouched = identity.identity(other)
    assert ledger.recall(identity.identity(config), Rerun.failed)
    package("new", "same")
    assert not ledger.recall(identity.identity(config), Rerun.failed)
    after = [key(config) for key in (identity.artifact_key, identity.pair_key)]
    assert not {*before} & {*after}
    assert identity.identity(other) == untouched


def test_other_judges_are_other_scores_of_the_same_pictures(load, package):
    judged, plain = (load("model=scenes", f"quality={name}") for name in ("fast", "none"))
    found = []
    for judge in ("old", "new"):
        package("same", judge)
        found.append(
            [identity.identity(judged), identity.identity(plain), identity.pair_key(judged)]
        )
    old, new = found
    assert old[0] != new[0]
    assert old[1:] == new[1:]


def test_the_package_is_hashed_once_in_a_process(load, package, monkeypatch):
    config = load("model=scenes", "quality=fast")
    package("counted", "counted too")
    hashed = []
    whole = identity.fingerprint
    monkeypatch.setattr(identity, "fingerprint", lambda path: hashed.append(path) or whole(path))
    assert identity.identity(config) == identity.identity(config)
    identity.pair_key(config)
    assert sorted(path.name for path in hashed) == ["judge", "unet"]


@pytest.mark.parametrize(
    ("words", "group", "name"),
    [
        ((), "model", "unet"),
        (("quant=int8",), "quant", "tuned"),
        (("quant=int8",), "quant", "calib_dataset"),
        (("quality=fast",), "quality", "reference"),
    ],
)
def test_another_file_behind_the_same_path_is_another_measurement(
    load, tmp_path, words, group, name
):
    config = load(*words)
    path = tmp_path / "there"
    if name == "calib_dataset":
        file = path
    else:
        path.mkdir()
        file = path / "some.safetensors"
    setattr(getattr(config, group), name, str(path))
    file.write_text("one")
    before = identity.identity(config), identity.artifact_key(config)
    file.write_text("two")
    assert identity.identity(config) != before[0]
    assert (identity.artifact_key(config) != before[1]) == (group != "quality")


def test_captions_that_calibrate_nothing_change_nothing(load, tmp_path, monkeypatch):
    (tmp_path / "scenes").mkdir()
    monkeypatch.chdir(tmp_path)
    keys = set()
    for text in ("one", "two"):
        (tmp_path / "scenes" / "file").write_text(text)
        (tmp_path / "captions.tsv").write_text(text)
        named = load("model=scenes", "quant=int8")
        assert named.quant.calib_dataset == "scenes"
        weights = load("quant=int4_weight_only")
        weights.quant.calib_dataset = "captions.tsv"
        keys.add((identity.identity(named), identity.identity(weights)))
    assert len(keys) == 1


def test_the_fetched_calibration_captions_count(load, tmp_path):
    config = load("quant=int8", "quant.calib_dataset=coco_calibration")
    before = identity.identity(config)
    file = tmp_path / "store" / "coco" / "calibration_captions.tsv"
    file.parent.mkdir(parents=True)
    file.write_text("caption\nA cat\n")
    assert identity.identity(config) != before


def test_the_builtin_prompts_belong_to_the_code(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "PACKAGE", tmp_path)
    (tmp_path / "assets").mkdir()
    found = set()
    for text in ("A cat", "A dog"):
        (tmp_path / "assets" / "prompts.txt").write_text(text)
        found.add(ledger.code_version.__wrapped__())
    assert len(found) == 2


def test_an_audit_is_no_partner_of_a_plain_run(load, tmp_path):
    kept = []
    for words in ((), ("compliance=test01",)):
        record = identity.new(load("backend=fake", *words))
        record.status, record.performance = "ok", Performance(pair_key="pair")
        path = records.write(record, tmp_path / str(len(kept)))
        ledger.remember(record, path)
        kept.append(record)
    found = ledger.partner("pair", Mode.performance)
    assert found and found[1].id == kept[0].id
    pairs = (tmp_path / "store" / "ledger").rglob("pairs/*")
    assert [path.name for path in pairs] == ["pair-performance.json"]
