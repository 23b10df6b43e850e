"""Intervals, tests, agreement and power: small enough to read, tested against scipy, statsmodels and scikit-learn."""
