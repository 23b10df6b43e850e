"""Supervised fine-tuning in a child process of its own: jobs, audit, batches, training, process entry."""
