"""Validation: raw rows become canonical examples, or go into quarantine with all their findings."""
