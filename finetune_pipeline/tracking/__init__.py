"""MLflow: its store, the runs that mirror Dagster's, and the registry of models."""
