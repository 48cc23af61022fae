"""What the tests of tracking ask of an MLflow store."""

FAST = ("backend=fake", "limit=8", "scenario.min_duration_ms=0", "backend.sample_ms=0")


def runs(client, name):
    experiment = client.get_experiment_by_name(name)
    return client.search_runs([experiment.experiment_id]) if experiment else []


def files(client, run_id, path=None):
    found = set()
    for entry in client.list_artifacts(run_id, path):
        found |= files(client, run_id, entry.path) if entry.is_dir else {entry.path}
    return found
