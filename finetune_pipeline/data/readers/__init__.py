"""Readers of raw files; :mod:`.any_file` chooses among them."""
