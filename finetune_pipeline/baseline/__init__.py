"""Before training: simple models, prompts, and advice."""
