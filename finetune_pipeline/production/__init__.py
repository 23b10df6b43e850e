"""Production: log ingestion, drift, and the retraining decision."""
