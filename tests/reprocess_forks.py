"""`xec reprocess` many times without its imports: each call a fork of one process that has them.

Run: python tests/reprocess_forks.py LOG. A line on standard input is the arguments of a call, as a
JSON list, and is answered by the number of its process; a line `null` waits for that process to
end, and is answered by its status as `subprocess` has it. What the calls print goes to LOG.

The process forks before anything of a call ran, and has no threads then. A process that ended is
kept until it is waited for, so that its number means no other.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from importlib import import_module
from pathlib import Path

from reprocess_cli import only_ours
from xec import cli

# What a call imports, which takes most of its time; not ONNX Runtime, whose import starts a thread.
NEEDED = (
    "pydantic.type_adapter",
    "pyarrow.parquet",
    "uproot",
    "xec.engines.onnx",
    "xec.io.midas.event_writer",
    "xec_client.reprocess.calling",
    "xec_client.reprocess.command",
    "xec_client.reprocess.local",
)
# jemalloc, Arrow's allocator, gives each fork a thread of its own again.
HARMLESS = "jemalloc_bg_thd"


def threads() -> list[str]:
    """Threads of this process that a fork would lose, by name."""
    tasks = [path for path in Path("/proc/self/task").iterdir() if path.name != str(os.getpid())]
    return [name for name in ((p / "comm").read_text().strip() for p in tasks) if name != HARMLESS]


def call(arguments: list[str], log: int) -> None:
    """One call, in a process of its own, which ends here."""
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["xec", "reprocess", *arguments]
    try:
        cli.main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve(log: int) -> None:
    process = 0
    for line in sys.stdin:
        arguments = json.loads(line)
        if arguments is None:
            answer = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        else:
            assert threads() == []
            answer = process = os.fork()
            if process == 0:
                call(arguments, log)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    for name in NEEDED:
        import_module(name)
    cli.entry_points = only_ours
    serve(os.open(Path(sys.argv[1]), os.O_WRONLY | os.O_CREAT | os.O_APPEND))
