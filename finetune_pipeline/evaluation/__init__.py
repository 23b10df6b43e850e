"""Prediction, metrics, statistics and gates."""
