"""What assets use but do not own: compute, the artifact store, MLflow tracking and the model registry."""
