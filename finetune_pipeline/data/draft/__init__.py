"""Drafts a task from raw files of unknown make: their dialects, their columns, the kind of answer, and task.yaml."""
