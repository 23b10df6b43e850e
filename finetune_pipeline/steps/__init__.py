"""The functions of the steps in pipeline.py, and their checks."""
