"""Tasks with known verdicts, which tests and benchmarks run as whole projects."""
