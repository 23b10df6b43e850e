"""Human review: the blind sheet, the decisions, and their statistics."""
