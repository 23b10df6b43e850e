"""What is wrong with a set of examples that no single row shows: plain functions over lists of examples."""
