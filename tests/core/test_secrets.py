"""A planted secret is in no file and on no stream, whatever the command and however it ends."""

import json
import os

import pytest

from sdxl.core import secrets
from tests import forked
from tests.conftest import ROOT

FAST = ("backend=fake", "limit=8", "scenario.min_duration_ms=0", "backend.sample_ms=0")
SECRET = "Pl4nted-S3cret"
LOGIN = f"tracking.uri=http://bob:{SECRET}@127.0.0.1:9/"
QUERY = f"tracking.uri='http://127.0.0.1:9/?password={SECRET}'"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("http://me:pw@host:5000/x", "http://host:5000/x"),
        ("a=http://me:p@w@h/,sqlite:///m.db", "a=http://h/,sqlite:///m.db"),
        ("sqlite:///m.db,http://me:pw@h/", "sqlite:///m.db,http://h/"),
        ("postgresql+psycopg2://me:pw@h/db?sslmode=require&password=x", None),
        ("http://h/?token=pw&a=b", "http://h/?a=b"),
        (r"uri\=http\:\/\/me:pw@h", None),
        ("http:\\/\\/me:pw@h", "http:\\/\\/h"),
        ("user=me password=pw host=h", "user=me password=*** host=h"),
        ("Authorization: Basic pw", "Authorization: Basic ***"),
        ("{'api_key': 'pw'}", "{'api_key': '***'}"),
        ("no answer from /x?a=b&password=pw/api", "no answer from /x?a=b&password=***"),
        ("--db-password=pw", "--db-password=***"),
        ("password=...pw", "password=***"),
        ("export SDXL_SERVE_TOKEN=...", "export SDXL_SERVE_TOKEN=..."),
        ("http://[::1]:80/x?seed=1#y", "http://[::1]:80/x?seed=1#y"),
        ("tokenizer=x, key=3, passes=4", "tokenizer=x, key=3, passes=4"),
    ],
)
def test_one_function_knows_what_a_secret_is(text, clean):
    found = secrets.hide(text)
    assert "pw" not in found.replace("psycopg2", "") or found == clean
    assert clean is None or found == clean
    assert secrets.hide(found) == found


def test_values_of_secret_variables_are_known_wherever_they_stand(monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", "correct-horse-1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://mlflow:mlflow@h/db")
    monkeypatch.setenv("KEYBOARD", "a value that is no secret")
    text = "the server says: correct-horse-1 is wrong; see python -m sdxl mlflow; mlflow.db"
    assert secrets.hide(text) == text.replace("correct-horse-1", "***")
    assert secrets.hide(os.environ["KEYBOARD"]) == os.environ["KEYBOARD"]


def test_whole_values_keep_their_keys():
    found = secrets.hidden({"token": "abc", "n": 1, "uris": ["http://a:b@h"], "seed": None})
    assert found == {"token": "***", "n": 1, "uris": ["http://h"], "seed": None}


def test_a_withheld_login_is_known_to_who_needs_it(monkeypatch):
    monkeypatch.delenv(secrets.WITHHELD, raising=False)
    words = secrets.withhold(["limit=8", LOGIN, "tracking.uri=choice(ftp://a:b@x)"])
    assert words == ["limit=8", "tracking.uri=http://127.0.0.1:9/", "tracking.uri=choice(ftp://x)"]
    assert secrets.restored("http://127.0.0.1:9/") == f"http://bob:{SECRET}@127.0.0.1:9/"
    assert secrets.restored("ftp://x") == "ftp://a:b@x" and secrets.restored("sqlite:///x")
    with pytest.raises(Exception, match="two logins"):
        secrets.withhold(["a=http://me:x@h/", "b=http://you:y@h/"])
    os.environ.pop(secrets.WITHHELD)


def no_secret(place, *texts):
    assert SECRET not in "".join(texts)
    files = [path for path in place.rglob("*") if path.is_file()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    return files


@pytest.mark.slow
@pytest.mark.parametrize("word", [LOGIN, QUERY], ids=["login", "query"])
def test_runs_and_sweeps_of_all_ends(cli, tmp_path, word):
    run = cli(*FAST, word)
    assert (run.code, run.json["mlflow_run"]) == (0, None)
    refused = cli(*FAST, word, "model.guidance=7")
    assert refused.code == 2 and (refused.dir / ".hydra" / "config.yaml").is_file()
    sweep = cli("-m", *FAST, word, "seed=3,4,3", "rerun=all")
    assert sweep.json["ok"] == 2 and sweep.json["skipped"] == 1
    again = cli("-m", *FAST, word, "seed=3,4,3")
    assert again.json["cached"] == 2
    axis = cli("-m", "backend=fake", "limit=2", f"{word},sqlite:///{tmp_path}/m.db", "plan=true")
    done = [run, refused, sweep, again, axis]
    files = no_secret(tmp_path, *(each.out + each.err for each in done))
    assert {"multirun.yaml", "record.json", "worker.log"} <= {path.name for path in files}


@pytest.mark.slow
def test_other_commands_and_a_login_in_a_file(cli, tmp_path):
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    text = f"# @package _global_\ntracking:\n  uri: {LOGIN.partition('=')[2]}\n"
    (folder / "mine.yaml").write_text(text)
    out = tmp_path / "out"
    where = [f"hydra.searchpath=[file://{folder.parent}]", "+experiment=mine"]
    done = [
        cli(*FAST, *where, "tracking=mlflow", "quality=none", out_dir=out, timeout=400),
        cli(LOGIN, "plan=true", script="quantize.py", out_dir=out / "quantize"),
        cli(LOGIN, "plan=true", script="export.py", out_dir=out / "export"),
        cli("train=smoke", LOGIN, "plan=true", script="train.py", out_dir=out / "train"),
        cli("--cfg=job", *FAST, LOGIN),
    ]
    assert done[0].record["config"]["tracking"]["uri"] == "http://127.0.0.1:9/"
    assert [each.code for each in done] == [0] * 5, done[1].err
    no_secret(out, *(each.out + each.err for each in done))


@pytest.mark.slow
def test_small_commands(tmp_path):
    record = tmp_path / "record.json"
    record.write_text("{}")
    uri = LOGIN.partition("=")[2]
    environment = os.environ | {"MLFLOW_TRACKING_URI": uri, "SDXL_TOKEN": SECRET}
    for words in (
        ["mlflow", "upload", str(record), "--uri", uri],
        ["mlflow", "ui"],
        ["doctor"],
        ["diff", uri, SECRET],
        ["mlflow", "upload", str(record), f"--password={SECRET}"],
    ):
        done = forked.run(["-m", "sdxl", *words], cwd=ROOT, env=environment, timeout=120)
        assert json.loads(done.stdout.splitlines()[-1])["exit_code"] in (0, 1, 2)
        no_secret(tmp_path, done.stdout + done.stderr)
