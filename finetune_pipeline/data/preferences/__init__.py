"""Preferences about answers: their rows, how raw rows are read, and how they are cleaned."""
