"""docs/security.md, sentence by sentence: each has a test, here or where it belongs."""

import ast
import functools
import re

import pytest

from sdxl.core.secrets import hide
from tests import sources
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()
SENTENCES = re.findall(r"^- (.*)$", PAGE, re.MULTILINE)
FILES = [path for folder in ("sdxl", "hydra_plugins", "docs")
         for path in sorted((ROOT / folder).rglob("*.py"))]  # fmt: skip
GUARD, SECRETS = "config/test_guard.py", "core/test_secrets.py"
OPENVINO = "backends/openvino/test_openvino.py"

TESTS = {
    "A configuration runs no code": (GUARD, "test_typed_words_run_no_code"),
    "Callbacks of Hydra": (GUARD, "test_no_pickle_is_loaded_by_a_command"),
    "Logging takes": (GUARD, "test_files_run_no_code"),
    "A configuration from a Python package": (GUARD, "test_typed_words_run_no_code"),
    "A file cannot set": (GUARD, "test_files_run_no_code"),
    "`--experimental-rerun`": (GUARD, "test_no_pickle_is_loaded_by_a_command"),
    "Weights are safetensors": ("model/test_weights.py", "test_pickled_weights_are_never_read"),
    "Files of PyTorch": ("test_security.py", "test_loaders_refuse_pickles"),
    "No text from outside": ("test_security.py", "test_nothing_is_evaluated"),
    "Records, prompts": ("core/test_terminal.py", "test_text_from_outside_is_shown_as_it_is"),
    "A download is": ("model/download/test_fetch.py", "test_a_wrong_checksum_removes_the_part"),
    "Hydra's basic": (GUARD, "test_what_is_shipped_or_documented_is_let_through"),
    "`model.diffusers_src": ("test_security.py", "test_code_from_outside_is_announced"),
    "`--config-dir`": (GUARD, "test_configuration_of_others_is_announced"),
    "`hydra.launcher.setup`": (GUARD, "test_files_run_no_code"),
    "A secret is": (SECRETS, "test_one_function_knows_what_a_secret_is"),
    "Logins are taken": (SECRETS, "test_a_withheld_login_is_known_to_who_needs_it"),
    "No secret is in a record": (SECRETS, "test_runs_and_sweeps_of_all_ends"),
    "No secret is in MLflow's": ("test_security.py", "test_mlflow_gets_no_secret"),
    "No secret is in the arguments": ("test_security.py", "test_addresses_are_no_arguments"),
    "The values of": (SECRETS, "test_values_of_secret_variables_are_known_wherever_they_stand"),
    "MLflow's pages": ("test_security.py", "test_servers_listen_here_only"),
    "`serve` listens": ("run/serve/test_command.py", "test_other_machines_are_let_in_with_a_token"),
    "`serve` on 127.0.0.1": ("run/serve/test_app.py", "test_a_name_of_another_site_is_refused"),
    "MLflow's own telemetry": ("test_security.py", "test_telemetry_is_off"),
    "OpenVINO's own telemetry": (OPENVINO, "test_the_import_tells_nobody"),
    "A run with local weights": ("conftest.py", "world"),
    "Only `http`": ("model/download/test_command.py", "test_only_web_addresses"),
    "A measurement's process": ("run/test_faults.py", "test_the_worker_follows_a_killed_command"),
    "A run overwrites": ("core/test_ends.py", "test_a_users_own_pictures_stay"),
}
"""The beginning of a sentence -> the file of its test, and the test's name."""


@functools.cache
def all_calls():
    """Every call in every file."""
    return {
        path: [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        for path, tree in sources.trees(FILES)
    }


@pytest.mark.parametrize("sentence", SENTENCES, ids=[each[:30] for each in SENTENCES])
def test_every_sentence_has_its_test(sentence):
    (found,) = [TESTS[start] for start in TESTS if sentence.startswith(start)]
    file, name = found
    assert f"def {name}" in (ROOT / "tests" / file).read_text()


def test_no_test_is_left_over():
    assert not [start for start in TESTS if not any(s.startswith(start) for s in SENTENCES)]


def called(name):
    """(file, keyword arguments) of every call of a function with this dotted name."""
    for path, calls in all_calls().items():
        for call in calls:
            if ast.unparse(call.func) == name:
                yield path, {each.arg: ast.unparse(each.value) for each in call.keywords}


def test_loaders_refuse_pickles():
    """NumPy's own default is False."""
    torch, numpy = list(called("torch.load")), list(called("np.load"))
    assert torch and numpy
    assert not [path for path, words in torch if words.get("weights_only") != "True"]
    assert not [path for path, words in numpy if words.get("allow_pickle", "False") != "False"]
    assert not [path for path in FILES if re.search(r"^\s*import pickle", path.read_text(), re.M)]


def test_nothing_is_evaluated():
    for name in ("eval", "exec", "os.system", "yaml.load", "pickle.loads", "pickle.load"):
        assert not list(called(name)), name
    shells = [path for path, calls in all_calls().items() for call in calls
              for word in call.keywords if word.arg in ("shell", "trust_remote_code")
              and ast.unparse(word.value) != "False"]  # fmt: skip
    assert not shells


def test_code_from_outside_is_announced(load, tmp_path):
    from sdxl.run.command_line import outside

    config = load("backend=torch", f"model.diffusers_src={tmp_path}")
    assert outside(config) == [f"code of diffusers from {tmp_path} (model.diffusers_src)"]
    assert outside(load("backend=torch")) == []


def test_mlflow_gets_no_secret(load):
    from sdxl.report.mlflow import content
    from sdxl.run import identity

    record = identity.new(
        load("backend=fake", "tracking.uri='http://me:s3cret-1@h/?token=t0ken-2'")
    )
    given = f"{content.tags(record)} {content._flat(record.config)}"
    assert "http://h/" in given and "s3cret" not in given and "t0ken" not in given


def test_addresses_are_no_arguments():
    """A process is started with an address in its environment or through a pipe."""
    started = [ast.unparse(call) for calls in all_calls().values() for call in calls
               if ast.unparse(call.func) in ("subprocess.run", "subprocess.Popen")]  # fmt: skip
    assert started and not [each for each in started if re.search(r"\buri\b", each.split("env")[0])]
    page = (ROOT / "sdxl/report/mlflow/command.py").read_text()
    assert '"--backend-store-uri"' not in page and "MLFLOW_BACKEND_STORE_URI" in page


def test_servers_listen_here_only():
    for path in FILES:
        text = path.read_text()
        assert "0.0.0.0" not in text, path
        assert text.count(".bind((") == text.count('.bind(("127.0.0.1"'), path
    assert '"--host", "127.0.0.1"' in (ROOT / "sdxl/report/mlflow/command.py").read_text()


def test_telemetry_is_off(monkeypatch):
    import os

    from sdxl.report.mlflow import client

    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    client._prepare()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_the_page_itself_has_no_secret():
    assert hide(PAGE) == PAGE
