"""Human review: blind sheets, decisions and their statistics."""
