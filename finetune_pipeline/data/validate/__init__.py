"""Raw files become canonical examples; every bad row goes into quarantine with all its reasons."""
