"""Keys: whatever can change a figure is in them, also what lies in files and in the package."""

import shutil

import pytest

from sdxl.config.derive import baseline_of, has_baseline
from sdxl.config.schema import Mode, Rerun
from sdxl.core import paths, records
from sdxl.core.record import Performance
from sdxl.model.seeded import RandomSource
from sdxl.quant import build
from sdxl.run import identity, ledger

KEYS = {
    "backend=fake":
        "2ae41f50782d8a61 99b128403c1336bc ee47c57f0b874385",
    "backend=torch model=scenes quality=fast limit=8":
        "cf80c395cff06bc4 71c717fbc237936b ceee826ca745bed2",
    "model=scenes quality=fast quant=int8 quant_level=2.5 alpha=0.7":
        "eb7e7458af527d61 466a0a35a5b1b97e ea9323eea3ed6c24",
    "quant=fp8 quant_level=4 percentile=0.5":
        "f8cd20ae53c3ebf5 393ce250992a8db5 aa07737f2f4fe906 f4650487567a11ea 01315b01aa86bde9",
    "quant=int4_weight_only quant_level=2 precision=fp32":
        "e32892772e2f5866 6d5d41f2bdd4fc08 470f0f16d23510c9 8387153724c9b159",
    "backend=ort quant=int8 quant_level=3 scenario=SingleStream":
        "8b0fd28c2dc59e5b a17b529a278dd162 3504130e555fd110 eebed0ba705782f1 b734e8bfb5b2b378",
    "backend=trt model=sdxl_random quant=fp8 precision=fp16 scenario=MultiStream":
        "cf4bd2a293ff34af d2bbc52fbeac07fd ec45a360854efb61",
    "+experiment=mlperf_offline model=tiny quality=none":
        "32b29ae6bc1db434 045d36dc0282c6af 2c868cd0fb79a05a",
    "+experiment=mlperf_server model=tiny quality=none compliance=test01":
        "284d68c11d41ec6a 045d36dc0282c6af f68a7745f9a252fa",
    "quant=auto_mixed target=0.2 seed=7 mode=accuracy dataset=coco":
        "49b12d3e5217b175 5b7d5c6ca6032790 49ea119f60303d0d d3f59b2a28083827 1e738f0c8bfac8a5",
}  # fmt: skip
"""By words: identity, artifact, pair, and where it is quantized statistics and checkpoint.

What commit 174cebc computed, before the modules moved; the files behind them apart."""


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


def test_what_cannot_change_a_figure_is_there_and_no_part_of_the_code_version(
    tmp_path, monkeypatch
):
    assert all((ledger.PACKAGE / each).exists() for each in ledger.NO_MEASURE)
    package = tmp_path / "sdxl"
    shutil.copytree(ledger.PACKAGE, package, ignore=shutil.ignore_patterns("*.pyc", "scenes"))
    monkeypatch.setattr(ledger, "PACKAGE", package)
    before = ledger.code_version.__wrapped__()
    for file in ("report/cells.py", "run/plan.py", "run/sweep/run.py"):
        (package / file).write_text("changed = True")
    assert ledger.code_version.__wrapped__() == before
    (package / "run/worker.py").write_text("changed = True")
    assert ledger.code_version.__wrapped__() != before


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


class EulerDiscreteScheduler:
    """Stands for diffusers' own, whose settings grow with its versions."""

    config = {"beta_start": 0.00085}


@pytest.mark.parametrize("words", KEYS)
def test_keys_are_what_they_always_were(load, monkeypatch, words):
    """Else a store is built anew, and no measurement made so far is found again."""
    monkeypatch.setattr(identity, "_bundled", lambda part: part.name)
    monkeypatch.setattr(RandomSource, "scheduler", lambda _: EulerDiscreteScheduler())
    rules = () if "rules=" in words else ("rules=closed",)  # the default of every model then
    config = load(*words.split(), *rules)
    if config.backend.name == "torch":
        config.backend.decode_batch_size = None  # its default then; 4 since 0.2
    found = [key(config) for key in (identity.identity, identity.artifact_key, identity.pair_key)]
    if len(KEYS[words].split()) > len(found):
        found += build.keys(config).values()
    assert " ".join(found) == KEYS[words]


def test_a_shortcut_is_part_of_the_key_and_none_is_not(load):
    words = ("model=scenes", "quality=none", "rules=open")
    plain, none, cached, wider = (
        load(*words, *more)
        for more in ([], ["shortcut=none"], ["shortcut=deepcache"],
                     ["shortcut=deepcache", "shortcut.branch=1"])
    )  # fmt: skip
    for key in (identity.identity, identity.artifact_key, identity.pair_key):
        assert key(plain) == key(none) and len({key(none), key(cached), key(wider)}) == 3
    assert identity.identity(baseline_of(cached)) == identity.identity(plain)
    assert has_baseline(cached) and not has_baseline(plain)
