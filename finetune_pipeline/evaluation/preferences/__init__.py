"""Preferences between two answers: by similarity to the reference, or by a judging model that agrees with people."""
