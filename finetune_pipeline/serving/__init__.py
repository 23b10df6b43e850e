"""Serves the champion on this machine and writes production logs."""
