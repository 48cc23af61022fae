"""A training's curves and pictures in MLflow."""

import numpy as np

from sdxl.report.mlflow.curves import Curves


def test_points_and_pictures_have_their_own_steps_and_a_resumed_training_its_run(store):
    curves = Curves(store.settings, "train little vae", {"lr": 0.1}, None)
    curves.log(5, {"loss": 2.0})
    curves.picture(8, "vae", np.zeros((4, 4, 3), np.uint8))
    curves.close("KILLED")
    again = Curves(store.settings, "train little vae", {"lr": 0.1}, curves.run_id)
    again.log(9, {"loss": 1.0})
    again.close("FINISHED")
    (run,) = store.runs()
    assert run.info.run_id == curves.run_id and run.info.status == "FINISHED"
    points = store.client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(5, 2.0), (9, 1.0)]
    pictures = [file.path for file in store.client.list_artifacts(run.info.run_id, "images")]
    assert pictures and all("vae+step+8+" in path.replace("%", "+") for path in pictures)
