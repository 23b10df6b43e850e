"""Leak-free splits: where rows go, the ledger that keeps them there, and the proof that nothing leaks."""
