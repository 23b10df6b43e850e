"""General ability before and after training: items, scores by likelihood, and the loss."""
