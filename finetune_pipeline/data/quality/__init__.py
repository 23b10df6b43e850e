"""Checks of a set of examples as a whole: size, balance, label noise, synthetic rows."""
