"""Readers of raw files: one module a container, and :mod:`.blocks` in front of them."""
