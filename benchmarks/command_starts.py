"""How soon each command answers: first line on a terminal, first line of its own, and its end.

    python benchmarks/command_starts.py HOME TASK > benchmarks/results/DATE-command-starts.txt

HOME is a FINETUNE_HOME in which TASK ran to its end; it is copied, and once more each reading command is asked in an empty
one. Each is run three times on a terminal of its own, the fastest counts. `first`: any line, also "finetune report:
starting"; `own`: a line of the command itself. Exit code 1: a first line after 1 s, or help after 0.4 s.
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
READING = ("show", "schema", "check TASK", "show TASK", "report TASK", "report TASK --markdown", "costs TASK", "plan TASK",
           "advise TASK", "versus TASK", "ask-data TASK", "automate TASK", "review TASK --page PAGE",
           "run TASK", "rollback TASK", "forget TASK --id nobody", "doctor")  # fmt: skip
NOTICE = re.compile(rb"finetune \S+: (starting|working, \d+ s)")
FIRST, HELP = 1.0, 0.4


def timed(arguments: list[str], home: Path) -> tuple[float, float, float, int]:
    """Seconds to the first line, to one of the command itself, and to the end; and the exit code."""
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
        except OSError:  # its other end was closed
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("home", type=Path)
    parser.add_argument("task")
    parser.add_argument("--times", type=int, default=3)
    given = parser.parse_args()
    late = False
    with tempfile.TemporaryDirectory() as folder:
        finished, empty = Path(folder) / "finished", Path(folder) / "empty"
        shutil.copytree(given.home, finished, symlinks=True)
        page = str(Path(folder) / "page.html")
        asked = [("--help", empty)] + [(f"{name} --help", empty) for name in COMMANDS]
        asked += [(words, finished) for words in READING]
        asked += [(words, empty) for words in (*READING[:5], "rollback TASK", "automate TASK", "versus TASK")]
        print(f"{cpu_model()}, {os.cpu_count()} cores; seconds, the fastest of {given.times}")
        print(f"{'command':<36} {'home':<9} {'first':>6} {'own':>6} {'end':>6} {'code':>4}")
        for words, home in asked:
            arguments = [{"TASK": given.task, "PAGE": page}.get(word, word) for word in words.split()]
            runs = [timed(arguments, home) for _ in range(given.times)]
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
