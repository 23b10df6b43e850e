"""From raw files to splits: formats, validation, scrubbing, duplicates, review, splitting, leakage."""
