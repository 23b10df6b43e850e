"""MLflow: its store, runs that mirror Dagster's, and the model registry."""
