"""Computes answers of a loaded model: greedy, constrained by a schema, and the likelihood of each label."""
