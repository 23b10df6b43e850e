"""The pipeline's checks as plain functions of artifacts: what each asks, and what it answers."""
