"""Supervised fine-tuning: supervision audit, batches, trainer, checkpoints."""
