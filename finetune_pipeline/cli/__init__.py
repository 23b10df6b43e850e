"""The command line: one file per command. Exit codes: 0 done, 1 error, 2 a gate said no."""

import sys

_hook = sys.excepthook
# for a Ctrl-C while the modules of a command are imported; main.py handles later ones
sys.excepthook = lambda kind, *args: sys.stderr.write("stopped\n") if kind is KeyboardInterrupt else _hook(kind, *args)
