"""Near-duplicates, contradictions and text that rows share: which rows of a set stay."""
