"""Turns the table of steps into Dagster's assets, checks, jobs, sensors and resources."""
