"""Raw files as records: one module a container, and :mod:`.blocks` in front of them."""
