"""What production wrote: ingestion of logs, drift, and the retraining decision."""
