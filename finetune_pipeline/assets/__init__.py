"""The asset graph: one file a stage, each a table of nodes; what a node does is a plain function elsewhere."""
