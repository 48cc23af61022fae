"""Published results become records whose figures are the files'."""

import json
import shutil

import pytest

from sdxl.bench import logs
from sdxl.bench.mlperf import importing, results
from sdxl.bench.mlperf.rounds import ROUNDS
from sdxl.core import records
from sdxl.report.verdict import main as verdict


@pytest.fixture
def imported(tmp_path, capsys):
    """A place -> its records by (submitter, system, scenario, of what)."""

    def read(place):
        assert importing.main([str(place), "--out", str(tmp_path / "published")]) == 0
        line = json.loads(capsys.readouterr().out.splitlines()[-1])
        found = {}
        for path in line["records"]:
            record = records.read(path if not isinstance(path, str) else tmp_path / path)
            backend = record.config["backend"]
            name = (backend["submitter"], backend["system"], record.config["scenario"]["name"])
            found[(*name, backend["of"])] = record
        return found

    return read


def test_every_row_of_the_published_table_is_there(imported, data):
    rows = json.loads((data / "mlperf/results_v5.1_sdxl.json").read_text())
    found = imported(data / "mlperf/results_v5.1_sdxl.json")
    assert len(rows) == 40 and len([name for name in found if name[-1] == "system"]) == 40
    for row in rows:
        name = (row["Submitter"], row["Platform"], row["Scenario"])
        record, value = found[(*name, "system")], row["Performance_Result"]
        assert record.performance.value == value and record.status == "ok" and record.comparable
        rate = 1e3 / value if row["Scenario"] == "SingleStream" else value
        assert record.performance.images_per_second == rate
        scores = record.quality.scores.metrics
        assert (
            str(scores["fid"]) in row["Accuracy"] and str(scores["clip_score"]) in row["Accuracy"]
        )
        assert record.environment.gpu_names == [row["Accelerator"]] * row["a#"]
        assert record.config["round"] == "v5.1" and all(gate.passed for gate in record.verdict)
        if row["a#"] > 1:
            one = found[(*name, "accelerator")]
            assert one.performance.images_per_second == pytest.approx(value / row["a#"])
            assert one.config["backend"]["accelerators"] == 1
        else:
            assert (*name, "accelerator") not in found
    watts = next(row for row in rows if row["has_power"])
    name = (watts["Submitter"], watts["Platform"], watts["Scenario"])
    for of, count in (("system", 1), ("accelerator", watts["a#"])):
        energy = found[(*name, of)].resources.energy
        assert energy.watts == pytest.approx(watts["Power_Result"] / count)
        assert energy.joules_per_image == pytest.approx(
            watts["Power_Result"] / watts["Performance_Result"]
        )


def test_loose_logs_are_read_under_loadgens_names(imported, data):
    found = imported(data / "loadgen_samples")
    systems = {name[1]: record for name, record in found.items()}
    assert "acc_Offline" not in systems, "an accuracy run has no figures"
    detail = logs.read(data / "loadgen_samples/out_Server")["detail"]
    server = systems["out_Server"]
    assert server.performance.value == detail["result_completed_samples_per_sec"]
    assert (
        server.performance.latency_ms["p99"] == detail["result_99.00_percentile_latency_ns"] / 1e6
    )
    multi = systems["out_MultiStream"].performance
    assert multi.value == pytest.approx(
        logs.read(data / "loadgen_samples/out_MultiStream")["detail"]["early_stopping_latency_ms"]
        / 1e6
    )
    assert systems["inv_off"].status == "invalid" and "Increase expected QPS" in (
        systems["inv_off"].reason
    )
    assert systems["out_Offline"].config["round"] == "v6.1", "by its seeds"


@pytest.mark.parametrize("layout", ["v6.1", "v5.1"])
def test_a_tree_of_our_own_gives_its_own_figures(imported, tree, tree51, layout, tmp_path, capsys):
    root = {"v6.1": tree, "v5.1": tree51}[layout]
    found = imported(root)
    scenarios = {"v6.1": {"Offline", "SingleStream"}, "v5.1": {"Offline", "Server"}}[layout]
    assert {name[:3] for name in found} == {("Us", "box", each) for each in scenarios}
    for (_, _, scenario, _), record in found.items():
        place = root / "closed/Us/results/box/stable-diffusion-xl" / scenario
        detail = logs.read(place / "performance/run_1")["detail"]
        rate, (_, value, unit) = logs.figure(scenario, detail)
        performance = record.performance
        assert (performance.images_per_second, performance.value) == (rate, value)
        assert performance.unit == unit and performance.latency_ms == logs.latency_ms(detail)
        assert record.quality.scores.metrics == {"fid": 23.5, "clip_score": 31.75}
        assert record.config["round"] == layout and record.config["precision"]["unet"] == "fp32"
        assert record.performance.loadgen.detail["effective_qsl_rng_seed"] == next(
            rules.seeds.qsl for which, rules in ROUNDS.items() if which.value == layout
        )
    assert verdict([str(tmp_path / "published")]) == 0
    assert not any(json.loads(capsys.readouterr().out.splitlines()[-1])["failing"].values())


def test_offline_inferred_from_single_stream_is_its_rate(imported, tree, tmp_path):
    copy = tmp_path / "tree"
    shutil.copytree(tree, copy, ignore=shutil.ignore_patterns("src"))
    model = copy / "closed/Us/results/box/stable-diffusion-xl"
    shutil.rmtree(model / "Offline/performance")
    shutil.copytree(model / "SingleStream/performance", model / "Offline/performance")
    record = imported(copy)["Us", "box", "Offline", "system"]
    detail = logs.read(model / "SingleStream/performance/run_1")["detail"]
    wanted = detail["result_qps_without_loadgen_overhead"]
    assert record.performance.images_per_second == record.performance.value == wanted


def test_multi_stream_inferred_from_single_stream_is_a_latency(data):
    """Eight times the bound of the 99th percentile, one query being eight samples."""
    found = results._logged(data / "loadgen_samples/out_SingleStream", "MultiStream")
    detail = logs.read(data / "loadgen_samples/out_SingleStream")["detail"]
    assert detail["early_stopping_latency_ms"] > detail["early_stopping_latency_ss"]
    assert found.unit == "ms" and found.scenario == "MultiStream"
    assert found.value == pytest.approx(8 * detail["early_stopping_latency_ms"] / 1e6)
    assert found.rate == detail["result_qps_without_loadgen_overhead"]


ROW = '[{"Model": "stable-diffusion-xl", "version": "%s", "Performance_Result": %s, %s}]'
UNIT = '"Performance_Units": "Samples/s"'
WRONG = [
    (ROW % ("v4.0", 1, UNIT), "its round is v4.0, known are v4.1"),
    (ROW % ("v5.1", 0, UNIT), "Performance_Result is 0"),
    ("[{", "the table cannot be read"),
    ("{}", "is no table of results"),
    ('[{"Model": "stable-diffusion-xl"}]', "row 1 of"),
    ('[{"Model": "resnet50"}]', "nothing in it is a result of SDXL"),
]


@pytest.mark.parametrize(("text", "what"), WRONG)
def test_what_is_no_result_is_named(tmp_path, capsys, text, what):
    (tmp_path / "table.json").write_text(text)
    assert importing.main([str(tmp_path / "table.json"), "--out", str(tmp_path / "out")]) == 2
    assert what in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert importing.main([str(tmp_path / "nowhere")]) == 2
