"""Preferences between two answers: by similarity to the reference, or by a judge model that agrees with people."""
