"""Builds report pages: a self-contained HTML page and a shorter Markdown version."""
