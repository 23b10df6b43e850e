"""The content-addressed store, running a step, and the graph that follows from the table of steps. No Dagster."""
