"""The container, without an engine: its steps are the project's, and what it copies is enough."""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest

from tests.conftest import ROOT

TEXT = (ROOT / "Dockerfile").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
IGNORED = (ROOT / ".dockerignore").read_text().split()
STEPS = [
    (line.split()[0], line.split(maxsplit=1)[1])
    for line in re.sub(r"\s*\\\n\s*", " ", re.sub(r"(?m)^#.*\n", "", TEXT)).splitlines()
    if line
]
ARGUMENTS = {
    name: value.strip('"') for step, text in STEPS if step == "ARG"
    for name, _, value in [text.partition("=")]
}  # fmt: skip


def texts(step):
    return [text for each, text in STEPS if each == step]


def ignored(path):
    """As .dockerignore has it: patterns of whole paths, `**/` at any depth."""
    parts = [str(each) for each in (path, *path.parents) if each.name]
    plain = [pattern.removeprefix("**/") for pattern in IGNORED if pattern.startswith("**/")]
    top = [pattern for pattern in IGNORED if not pattern.startswith("**/")]
    deep = any(fnmatch.fnmatch(part, pattern) for part in path.parts for pattern in plain)
    return deep or any(fnmatch.fnmatch(part, pattern) for part in parts for pattern in top)


def test_its_base_and_its_torch_are_arguments_and_every_argument_is_used():
    assert STEPS[0][0] == "ARG" and STEPS[1] == ("FROM", "${BASE}")
    assert {"BASE", "TORCH", "TORCH_INDEX", "EXTRAS"} <= set(ARGUMENTS) and all(ARGUMENTS.values())
    for name in ARGUMENTS:
        assert "${" + name + "}" in TEXT, name
    given = re.findall(r"--build-arg (\w+)=", MAKEFILE)
    assert given and set(given) <= set(ARGUMENTS)


def test_it_is_not_root():
    (user,) = texts("USER")
    assert int(user) >= 10_000, "a number, which Kubernetes can check, and nobody's in the base"
    made = texts("RUN")[1]
    assert f"useradd --create-home --uid {user} sdxl" in made
    for volume in texts("VOLUME")[0].split():  # a volume that is not there before is root's
        assert (
            re.search(rf"mkdir [^&]*{volume}\b", made) and "chown -R sdxl:sdxl /sdxl /store" in made
        )
    last = [step for step, _ in STEPS].index("USER")
    installs = [n for n, (step, text) in enumerate(STEPS) if "pip install" in text]
    assert installs and min(installs) > last, "nothing of a package index runs as root"


def test_it_installs_as_the_makefile_does():
    """The same flags and the same tested set; extras that there are."""
    how = "-m pip install --quiet --disable-pip-version-check -c constraints.txt"
    runs = [text for text in texts("RUN") if "pip install" in text]
    assert all(f"python {how}" in text for text in runs) and f"python {how} -e '.[" in MAKEFILE
    assert runs[-1].endswith('-e ".[${EXTRAS}]"')
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(ARGUMENTS["EXTRAS"].split(",")) <= set(extras["optional-dependencies"])


def test_what_it_copies_is_there():
    for text in texts("COPY"):
        *sources, _ = [word for word in text.split() if not word.startswith("--")]
        for source in sources:
            assert (ROOT / source).exists() and not ignored((ROOT / source).relative_to(ROOT))


def test_its_steps_are_shell():
    for text in texts("RUN"):
        done = subprocess.run(["sh", "-n", "-c", text], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_private_and_generated_files_stay_outside():
    for name in (".git", ".venv", "mlflow.db", "mlruns", "multirun", "sdxl/__pycache__", ".env"):
        assert ignored((ROOT / name).relative_to(ROOT)), name


def test_from_what_is_copied_the_project_runs(tmp_path):
    place = tmp_path / "sdxl"
    shutil.copytree(
        ROOT, place,
        ignore=lambda folder, names: [
            name for name in names if ignored((ROOT / folder / name).relative_to(ROOT))
        ],
    )  # fmt: skip
    (words,) = texts("ENTRYPOINT")
    environment = {**os.environ, "PYTHONPATH": str(place)}

    def run(*more):
        line = [sys.executable, *json.loads(words)[1:], *more]
        return subprocess.run(line, cwd=place, env=environment, capture_output=True, text=True)

    (help_words,) = texts("CMD")
    shown = run(*json.loads(help_words))
    assert shown.returncode == 0 and "serve" in shown.stdout
    assert run("serve", "--help").returncode == 0
    planned = run("run", "backend=fake", "plan=true", "tracking=off")
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout.splitlines()[-1])["status"] == "ok"


@pytest.mark.parametrize("target", ["image", "image-cuda"])
def test_without_an_engine_make_says_so(target):
    line = ["make", target, "ENGINE=no-such-engine"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "no no-such-engine here" in done.stdout
    planned = subprocess.run([*line[:2], "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert "docker build --tag sdxl-bench:" in planned.stdout
