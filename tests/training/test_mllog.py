"""The log of a training as MLPerf's own parser reads it."""

import contextlib
import io

from mlperf_logging.compliance_checker import mlp_parser

from sdxl.config.schema.train import Training
from sdxl.training.mllog import Log


def read(file):
    """The lines; MLPerf's parser prints what it objects to."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        lines, failed = mlp_parser.parse_file(str(file), ruleset="5.1.0")
    assert not failed, said.getvalue()
    return lines


def test_mlperfs_parser_reads_it_and_a_resumed_training_goes_on(tmp_path):
    file = tmp_path / "mllog.txt"
    file.write_text("of an earlier training")
    log = Log(file, again=False)
    log.begin(Training(name="vae", lr=0.5), seed=3, rows=9, again=False)
    log.evaluation(128, {"psnr_db": 20.5})
    log.end("KILLED")
    again = Log(file, again=True)
    again.begin(Training(name="vae", lr=0.5), seed=3, rows=9, again=True)
    again.end("FINISHED")
    lines = read(file)
    keys = [line.key for line in lines]
    assert keys[0] == "init_start" and keys.count("init_start") == keys.count("run_start") == 1
    assert keys.count("seed") == 2, "both parts say what they train"
    values = {line.key: line.value["value"] for line in lines}
    assert values["opt_base_learning_rate"] == 0.5 and values["train_samples"] == 9
    (figure,) = [line for line in lines if line.key == "eval_accuracy"]
    assert figure.value["value"] == 20.5
    assert figure.value["metadata"]["metric"] == "psnr_db"
    ends = [line.value["metadata"]["status"] for line in lines if line.key == "run_stop"]
    assert ends == ["aborted", "success"]
