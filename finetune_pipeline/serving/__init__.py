"""Answers with the champion on this machine and writes production's logs."""
