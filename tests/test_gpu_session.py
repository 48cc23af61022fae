"""The measuring session: limits, results that outlast a kill, resuming; a quick rehearsal of it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu import results, steps
from benchmarks.gpu.driver import Driver
from benchmarks.gpu.steps import Step
from tests.conftest import ROOT

NOTE = "def run(context):\n    context.note(half=1)\n"


def step(number, function, group, limit_s=20.0, **more):
    return Step(number, function, f"{function}:run", group, limit_s, function, **more)


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Steps without a framework, as modules of the package: what each does stands in its name."""
    texts = {
        "good": "def run(context):\n    return {'line': 'found it', 'value': 7}\n",
        "bad": NOTE + "    raise ValueError('no such kernel')\n",
        "slow": "import time\n" + NOTE + "    time.sleep(60)\n",
        "dead": "import os\n" + NOTE + "    os._exit(9)\n",
        "late": "def run(context):\n    return {'line': 'after all'}\n",
    }
    folder = tmp_path / "fake"
    (folder / "benchmarks" / "gpu").mkdir(parents=True)
    real = (ROOT / "benchmarks" / "gpu").resolve()
    for file in real.glob("*.py"):
        (folder / "benchmarks" / "gpu" / file.name).symlink_to(file)
    for name, text in texts.items():
        (folder / "benchmarks" / "gpu" / f"{name}.py").write_text(text)
    listed = folder / "benchmarks" / "gpu" / "steps.py"
    listed.unlink()
    listed.write_text(
        (real / "steps.py").read_text()
        + "\nEVERY = tuple(Step(i, n, f'{n}:run', 'one', 20.0, n) for i, n in enumerate("
        "('good', 'bad', 'slow', 'dead', 'late')))\n"
    )
    monkeypatch.setattr("benchmarks.gpu.driver.ROOT", folder)
    return tmp_path / "out"


def read(out, step):
    return results.read(out / step.file)


NAMES = ("good", "bad", "slow", "dead", "late")


def all_steps(**limits):
    return [step(i, name, "one", limits.get(name, 20.0)) for i, name in enumerate(NAMES)]


def test_whatever_happens_in_a_step_the_others_are_run(fake, capsys):
    wanted = all_steps(slow=1.0)
    summary = Driver(fake, 60.0).run(wanted)
    good, bad, slow, dead, late = (read(fake, each) for each in wanted)
    assert good["state"] == "ok" and good["found"] == {"value": 7} and good["line"] == "found it"
    assert bad["state"] == "failed" and bad["found"] == {"half": 1}
    assert bad["error"]["type"] == "ValueError" and "no such kernel" in bad["error"]["trace"]
    assert slow["state"] == "timed out" and slow["found"] == {"half": 1}
    assert dead["state"] == "failed" and "status 9" in dead["error"]["text"]
    assert late["state"] == "ok", "a group goes on in a new process"
    assert set(summary["steps"]) == {f"{i:02}-{name}" for i, name in enumerate(NAMES)}
    table = (fake / results.TABLE).read_text()
    assert "no such kernel" in table and "| ok |" in table
    log = (fake / results.LOG).read_text()
    assert "no such kernel" in log and log.rstrip() == capsys.readouterr().out.rstrip()


def test_a_second_session_runs_what_did_not_succeed_and_nothing_else(fake):
    wanted = all_steps(slow=0.5)
    Driver(fake, 60.0).run(wanted)
    before = read(fake, wanted[0])
    marks = [(fake / each.file).stat().st_mtime_ns for each in wanted]
    Driver(fake, 60.0, copy=fake / "few").run(wanted)
    changed = [(fake / each.file).stat().st_mtime_ns != mark
               for each, mark in zip(wanted, marks, strict=True)]  # fmt: skip
    assert changed == [False, True, True, True, False]
    assert read(fake, wanted[0]) == before
    assert {file.name for file in (fake / "few").iterdir()} == {
        results.SUMMARY, results.TABLE, results.LOG,
    }  # fmt: skip
    elsewhere = fake.parent / "elsewhere"
    elsewhere.mkdir()
    assert results.resume(fake / "few" / results.SUMMARY, elsewhere) == 2
    assert {f.stem for f in elsewhere.glob("*.json")} == {"00-good", "04-late"}


def test_without_time_or_without_what_it_needs_a_step_is_skipped_and_says_so(fake):
    wanted = [step(1, "bad", "one"), step(4, "late", "two", needs="bad")]
    Driver(fake, 30.0).run(wanted)
    assert read(fake, wanted[1])["reason"] == "bad did not succeed"
    hung = fake.parent / "hung"
    wanted = [step(2, "slow", "one", 0.5), step(4, "late", "one", needs="slow")]
    Driver(hung, 60.0).run(wanted)
    assert [read(hung, each)["state"] for each in wanted] == ["timed out", "ok"], "it loads anew"
    short = fake.parent / "short"
    wanted = [step(0, "good", "one", least_s=30.0), step(4, "late", "one", least_s=1.0)]
    Driver(short, 20.0).run(wanted)
    assert "30 s needed" in read(short, wanted[0])["reason"]
    assert read(short, wanted[1])["state"] == "ok"


def test_the_deadline_ends_a_step_and_keeps_what_it_had(fake):
    wanted = [step(2, "slow", "one", 50.0, least_s=0.1), step(4, "late", "two")]
    began = time.monotonic()
    Driver(fake, 9.0).run(wanted)
    assert time.monotonic() - began < 20
    assert "deadline" in read(fake, wanted[0])["reason"] and read(fake, wanted[0])["found"]
    assert read(fake, wanted[1])["state"] == "skipped"


def test_a_rehearsal_is_no_result(fake):
    wanted = [step(0, "good", "one")]
    Driver(fake, 30.0, rehearse=True).run(wanted)
    assert read(fake, wanted[0])["rehearsal"] is True
    Driver(fake, 30.0).run(wanted)
    assert read(fake, wanted[0])["rehearsal"] is False


def test_steps_have_room_in_the_session_and_names_of_their_own():
    names = [each.name for each in steps.EVERY]
    assert len(set(names)) == len(names) == len({each.file for each in steps.EVERY})
    ends = [each.until_s for each in steps.FIRST if each.until_s]
    assert ends == sorted(ends) and ends[-1] < steps.SESSION_S
    for each in steps.EVERY:
        module, _, function = each.run.partition(":")
        text = (ROOT / "benchmarks" / "gpu" / f"{module}.py").read_text()
        assert f"def {function}(context: Context" in text
        assert not each.needs or names.index(each.needs) < names.index(each.name)
    with pytest.raises(ValueError, match="no such step: nosuch"):
        steps.chosen(["fp8", "nosuch"], False)


def session(out, *words):
    line = [sys.executable, "benchmarks/gpu_session.py", "--out", str(out), "--rehearse", *words]
    return subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True)  # fmt: skip


def children_of(out):
    """Processes of the session that are alive."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_text()
        except OSError:
            continue
        if "benchmarks.gpu.child" in line and str(out) in line:
            found.append(int(entry.name))
    return found


@pytest.mark.slow
def test_a_rehearsal_killed_in_the_middle_is_resumed(tmp_path):
    """The driver is killed in its second step; the child ends with it, the first is not rerun."""
    pytest.importorskip("triton")
    out = tmp_path / "out"
    first = session(out, "--only", "machine,correct-int8,norms", "--limit-scale", "4")
    deadline = time.monotonic() + 120
    while results.read(out / "02-correct-int8.json").get("state") != "running":
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    for _ in range(100):
        if not children_of(out):
            break
        time.sleep(0.1)
    assert not children_of(out), "the child outlived its driver"
    machine = (out / "00-machine.json").read_text()
    assert json.loads(machine)["found"]["versions"]["torch"]
    second = session(out, "--only", "machine,correct-int8,norms", "--limit-scale", "4")
    told, _ = second.communicate(timeout=250)
    assert second.returncode == 0, told
    assert (out / "00-machine.json").read_text() == machine
    correct = results.read(out / "02-correct-int8.json")
    assert correct["found"]["wrong"] == [], correct["line"]
    assert len(correct["found"]["kernels"]) > 8
    assert "3 ok" in told and "00-machine.json: ok" not in told


def test_an_output_that_a_kernel_does_not_write_is_seen():
    torch = pytest.importorskip("torch")
    from benchmarks.gpu import correct

    plain = torch.empty
    with correct.poisoned():
        values = torch.empty(3, 4, dtype=torch.bfloat16)
        codes = torch.empty(5, dtype=torch.int8)
        laid = torch.empty_like(torch.zeros(1, 2, 3, 4).to(memory_format=torch.channels_last))
    assert values.isnan().all() and (codes == -1).all() and laid.isnan().all()
    assert not correct._near(values, torch.ones(3, 4))["ok"]
    assert not correct._equal(codes, torch.ones(5, dtype=torch.int8))["ok"]
    assert torch.empty is plain, "only inside"


@pytest.mark.parametrize("rehearse", [False, True])
def test_every_steps_words_are_a_valid_configuration(tmp_path, monkeypatch, rehearse):
    from benchmarks.gpu import model, ranges
    from benchmarks.gpu.child import Context

    monkeypatch.setattr(ranges, "write", lambda config, folder: folder / "ranges.safetensors")
    context = Context(tmp_path, rehearse, lambda **_: None)
    given = {(each.given["words"], each.given["batch"])
             for each in steps.EVERY if "words" in each.given}  # fmt: skip
    assert len(given) > 8
    for words, batch in given:
        config = model.configure(context, words, batch)
        assert config.model.name == ("tiny" if rehearse else "sdxl_random")
        assert config.backend.batch_size == (batch and min(batch, 2) if rehearse else batch)
        quantized = config.quant.format.value != "none"
        assert quantized == bool(config.quant.statistics)


def test_synthetic_ranges_serve_a_checkpoint(tmp_path, load):
    from benchmarks.gpu import ranges
    from sdxl.quant import build, statistics

    config = load("model=tiny_random", "quant=fp8_mha", "quant_level=4")
    file = ranges.write(config, tmp_path)
    assert ranges.write(config, tmp_path) == file
    table = statistics.load(file)
    assert table.calls == 1 and any(name.endswith(":softmax") for name in table.tensors)
    config.quant.statistics = str(file)
    assert build.statistics_of(config, build.selection(config)) is not None
