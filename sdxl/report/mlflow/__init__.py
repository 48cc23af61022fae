"""MLflow's view of records."""
