"""Estimates tokens, memory, time, cost and statistical power of a training before it starts."""
