"""The command line: one file a command. Exit codes: 0 done, 1 error, 2 a gate said no."""
