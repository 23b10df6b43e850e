"""Checks of a set of examples as a whole: size, balance, consistency, label noise, synthetic rows."""
