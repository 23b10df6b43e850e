"""Base models: what they are, how they speak (chat template), how an adapter is merged into them."""
