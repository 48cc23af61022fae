"""Short runs of the fake backend made to look like official ones: what a submission is made of.

LoadGen, the records, the pictures and the audits are real; only what ten minutes, 5,000 prompts and
the benchmark's model would have changed is rewritten, and the verdicts are then taken anew. The
model is a local folder of stand-ins, which are known as the benchmark's by their checksums.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from datetime import datetime, timedelta

from omegaconf import OmegaConf

from sdxl.bench import logs
from sdxl.bench.mlperf import compliance, rounds, verdict
from sdxl.bench.mlperf.submission import command
from sdxl.config.schema import Compliance, Round
from sdxl.core import records
from sdxl.core.record import LoadGen, Scores
from sdxl.core.store import write_json
from sdxl.model.components import COMPONENTS
from sdxl.run.command_line import public
from sdxl.run.figures import incomparable
from tests import forked
from tests.conftest import ROOT

V61, V51 = Round("v6.1"), Round("v5.1")
SCENARIOS = ("Offline", "Server", "SingleStream")
EDGE, DATACENTER = ("Offline", "SingleStream"), ("Offline", "Server")
ROLES = {
    "performance": [],
    "accuracy": ["mode=accuracy", "submission=true"],
    "test01": ["compliance=test01"],
    "test04": ["compliance=test04"],
}
TIME = "%m-%d-%Y %H:%M:%S.%f"
QUICK = ["backend=fake", "rules=closed", "backend.latency_ms=1", "backend.sample_ms=0", "limit=16",
         "scenario.min_duration_ms=0", "tracking=off",
         f"scenario={','.join(SCENARIOS)}"]  # fmt: skip


def measure(folder):
    """Every run that three scenarios need: folder/SCENARIO/ROLE."""
    for name, words in {"accuracy": ["mode=accuracy", "submission=true"],
                        "timed": ["compliance=null,test01,test04"]}.items():  # fmt: skip
        done = forked.run(
            [str(ROOT / "run.py"), "-m", *QUICK, *words, f"hydra.sweep.dir={folder / name}"],
            cwd=folder, env={**os.environ, "SDXL_STORE": str(folder / "store")}, timeout=300,
        )  # fmt: skip
        assert done.returncode in (0, 3), done.stderr  # short runs vary by more than 10 %
    for path in folder.glob("*/*/record.json"):
        record = records.read(path)
        role = record.config["compliance"] or record.config["mode"]
        target = folder / "runs" / record.config["scenario"]["name"] / role
        shutil.copytree(path.parent, target)
    return folder / "runs"


def weights(folder):
    """(a model's folder and captions, small stand-ins; a table that has their checksums)."""
    files = {}
    for name in COMPONENTS:
        stem = "model" if name.startswith("text") else "diffusion_pytorch_model"
        files[name] = folder / "sdxl" / name / f"{stem}.safetensors"
        files[name].parent.mkdir(parents=True)
        files[name].write_bytes(f"stand-in of {name}".encode())
    (folder / "sdxl/model_index.json").write_text("{}")
    digests = {n: hashlib.sha256(file.read_bytes()).hexdigest() for n, file in files.items()}
    captions = folder / "captions_source.tsv"
    captions.write_text("id\tcaption\n1\ta red cube\n")
    said = dict.fromkeys(("what", "licence", "use", "offline"), "")
    table = {
        "targets": {
            "sdxl": {**said, "base": "http://x", "files": []},
            "coco": {**said, "files": [{"path": "coco/captions_source.tsv",
                                        "ids_sha256": hashlib.sha256(b"1").hexdigest()}]},
            "calibration": {**said, "files": [{"path": "coco/calibration_captions.tsv",
                                               "ids_sha256": "0" * 64}]},
        },
        "benchmark": {n: [{"sha256": each, "what": "a stand-in"}] for n, each in digests.items()},
    }  # fmt: skip
    OmegaConf.save(table, folder / "table.yaml")
    return folder / "sdxl", captions, folder / "table.yaml"


@dataclasses.dataclass
class World:
    """What runs are made to look like: `load` composes a configuration, the others are files."""

    load: object
    model: object
    captions: object
    division: str = "closed"

    def words(self, scenario, role, which):
        """The command of an official run."""
        found = [f"+experiment=mlperf_{scenario.lower()}", f"model.path={self.model}",
                 f"dataset.path={self.captions}", "precision=fp32", f"round={which.value}",
                 f"rules={self.division}", *ROLES[role]]  # fmt: skip
        shorter = self.division == "open" and scenario == "Offline" and role == "performance"
        return found + [f"scenario.min_query_count={rounds.OPEN_SAMPLES}"] * shorter


def officialise(source, target, which, scenarios, world):
    """A copy of the runs of `scenarios` as the round wants them."""
    for scenario in scenarios:
        scores, roles = {}, list(ROLES) if world.division == "closed" else list(ROLES)[:2]
        for role in roles:
            place = target / scenario / role
            shutil.copytree(source / scenario / role, place)
            rewrite(place / "loadgen", scenario, which, scores, world.division)
            judge(place, which, world.load(*world.words(scenario, role, which)))
        for role in roles[2:]:
            audit(target / scenario, role)
    return target


def rewrite(place, scenario, which, scores, division):
    """LoadGen's detail log with the round's settings and the scores of the first run."""
    wanted, seeds = rounds.settings_of(scenario, division), vars(rounds.ROUNDS[which].seeds)
    values = {
        "effective_min_duration_ms": wanted.min_duration_ms,
        "effective_performance_sample_count": 5000,
        "effective_accuracy_sample_count": 5000,
        **{f"effective_{name}_rng_seed": seed for name, seed in seeds.items()},
    }
    if scenario == "Offline":
        values["effective_samples_per_query"] = wanted.min_query_count
    else:
        values["result_query_count"] = wanted.min_query_count
        values["effective_target_latency_percentile"] = wanted.percentile
    path = place / "mlperf_log_detail.txt"
    lines = []
    for line in path.read_text().splitlines():
        entry = json.loads(line.partition(":::MLLOG ")[2])
        key = entry["key"]
        if key in compliance.SCORE.values():
            values.setdefault(key, scores.setdefault(key, entry["value"]))
        if key == "power_begin":
            end = datetime.strptime(entry["value"], TIME) + timedelta(seconds=601)
            values["power_end"] = end.strftime(TIME)[:-3]
        if key == "result_50.00_percentile_latency_ns":
            values[key] = scores.setdefault(key, entry["value"])
        entry["value"] = values.get(key, entry["value"])
        lines.append(f":::MLLOG {json.dumps(entry)}\n")
    path.write_text("".join(lines))


def judge(place, which, config):
    """The record as if it had measured that, in the size that it really drew."""
    record = records.read(place / "record.json")
    size = {name: record.config["model"][name] for name in ("height", "width")}
    record.config = public(config)
    record.config["model"] |= size
    reasons = incomparable(config, rounds.PROMPTS)
    record.comparable, record.comparable_reason = not reasons, "; ".join(reasons)
    record.performance.loadgen = LoadGen.from_json(logs.read(place / "loadgen"))
    if record.config["mode"] == "accuracy":
        scores = {"metrics": {"fid": 23.5, "clip_score": 31.75}, "images": 5000, "comparable": True}
        record.quality.scores = Scores.from_json(scores)
        for index in rounds.ROUNDS[which].image_ids:
            if index >= 16:
                record.images.append(dataclasses.replace(record.images[index % 16], index=index))
    gates = verdict.gates(record)
    record.verdict = [gate.row() for gate in gates]
    record.reason = verdict.invalid_because(gates)
    record.status = "invalid" if record.reason else "ok"
    write_json(place / "record.json", record.to_json())


def audit(folder, role):
    """The audit's own gates."""
    place = folder / role
    record = records.read(place / "record.json")
    speed, accuracy = (folder / name / "record.json" for name in ("performance", "accuracy"))
    gates = compliance.verify(Compliance(role), record, place, speed, accuracy, place / "again")
    record.verdict += [gate.row() for gate in gates]
    record.reason = verdict.invalid_because(gates)
    record.status = "invalid" if record.reason else "ok"
    write_json(place / "record.json", record.to_json())


def edit(path, change):
    """Change a record on disk."""
    record = records.read(path)
    change(record)
    write_json(path, record.to_json())


def copy_records(source, target):
    """Records only: what is refused is refused before a log is read."""
    shutil.copytree(source, target, ignore=lambda _, names: [
        n for n in names if n.endswith((".png", ".json")) and n != "record.json"])  # fmt: skip
    return target


def build(places, system, out, *words):
    """The command's exit code."""
    return command.main(["build", str(places), "--system", str(system), "--submitter", "Us",
                         "--out", str(out), *words])  # fmt: skip


def words_only(value):
    """Functions have no name that two test processes agree on; pytest numbers them."""
    return value if isinstance(value, str) else None
