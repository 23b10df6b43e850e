"""Checks of a set of examples as a whole: balance, label noise, synthetic rows."""
