"""The stages as plain functions from artifacts to artifacts: one file a stage, in the order of the graph."""
