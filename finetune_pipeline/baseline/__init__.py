"""Before training: models without a language model, prompts, and advice."""
