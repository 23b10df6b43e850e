"""Wrong answers: their kinds, their groups, and what to collect against them."""
