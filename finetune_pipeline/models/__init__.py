"""Base models: loading, chat templates, adapters, merging, parity, export."""
