"""How soon each command answers: its first line on a terminal, the first line of its own, and its end.

    python benchmarks/command_starts.py HOME TASK > benchmarks/results/DATE-command-starts.txt

HOME is a FINETUNE_HOME in which TASK ran to its end. Commands run in a copy of it, some also in an empty one: three times
each on a new terminal; the fastest counts. `first`: any line, also "finetune report: starting"; `own`: a line of the command
itself. Exit code 1: a first line after 1 s, or help after 0.4 s.
"""

import argparse
import os
import pty
import re
import select
import shutil
import sys
import tempfile
import time
from pathlib import Path

from finetune_pipeline.cli.main import COMMANDS
from finetune_pipeline.models.hardware import cpu_model

ROOT = Path(__file__).resolve().parents[1]
READING = ("show", "show --schema task.yaml", "check TASK", "show TASK", "report TASK", "report TASK --markdown", "plan TASK",
           "plan TASK --costs", "advise TASK", "report TASK --ask-data", "automate TASK", "review TASK --page PAGE",
           "run TASK", "rollback TASK", "forget TASK --id nobody", "doctor")  # fmt: skip
NOTICE = re.compile(rb"finetune \S+: (starting|working, \d+ s)")
FIRST, HELP = 1.0, 0.4


def timed(arguments: list[str], home: Path) -> tuple[float, float, float, int]:
    """Return the seconds to the first line, to the first own line and to the end, and the exit code."""
    env = {**os.environ, "FINETUNE_HOME": str(home), "FINETUNE_DATA": str(ROOT / "data"), "PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
    process, terminal = pty.fork()
    if process == 0:
        os.execve(sys.executable, [sys.executable, "-m", "finetune_pipeline.cli.main", *arguments], env)
    text, first, own = b"", None, None
    while True:
        select.select([terminal], [], [])
        try:
            text += os.read(terminal, 65536)
        except OSError:  # the process closed the terminal
            break
        now = time.perf_counter() - began
        if b"\n" in text:
            first = first or now
            lines = [line for line in text.split(b"\n")[:-1] if not NOTICE.fullmatch(line.strip())]
            own = own or (now if lines else None)
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    end = time.perf_counter() - began
    return first or end, own or end, end, code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("task")
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    late = False
    with tempfile.TemporaryDirectory() as folder:
        finished, empty = Path(folder) / "finished", Path(folder) / "empty"
        shutil.copytree(options.home, finished, symlinks=True)
        page = str(Path(folder) / "page.html")
        commands = [("--help", empty)] + [(f"{name} --help", empty) for name in COMMANDS]
        commands += [(words, finished) for words in READING]
        commands += [(words, empty) for words in (*READING[:5], "rollback TASK", "automate TASK")]
        print(f"{cpu_model()}, {os.cpu_count()} cores; seconds, the fastest of {options.times}")
        print(f"{'command':<36} {'home':<9} {'first':>6} {'own':>6} {'end':>6} {'code':>4}")
        for words, home in commands:
            arguments = [{"TASK": options.task, "PAGE": page}.get(word, word) for word in words.split()]
            runs = [timed(arguments, home) for _ in range(options.times)]
            first, own, end = (min(run[i] for run in runs) for i in range(3))
            slow = first > (HELP if words == "--help" else FIRST)
            late |= slow
            print(
                f"{words:<36} {home.name:<9} {first:6.2f} {own:6.2f} {end:6.2f} {runs[0][3]:>4}{'  LATE' if slow else ''}",
                flush=True,
            )
    return int(late)


if __name__ == "__main__":
    sys.exit(main())
