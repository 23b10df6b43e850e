"""Cleaning: duplicates, contradictions, benchmark contamination and shared boilerplate."""
