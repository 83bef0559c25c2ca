"""`xec` many times without its imports: each call is a fork of one process that has them.

Run: python tests/xec_forks.py LOG. What the calls print goes to LOG. A line on standard input is a
call in JSON, Python text that its process runs before, and the arguments; it is answered by the
number of the process. A line `null` waits for the end of that process, and is answered by its
status as `subprocess` has it. Until then its number means no other.

This process never runs a call, nor has it a thread or a connection when it forks.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from xec import cli

COMMANDS = {
    "daq": "xec_client.daq.command:COMMAND",
    "reprocess": "xec_client.reprocess.command:COMMAND",
}
# What calls import, which takes most of their time; not ONNX Runtime, which starts a thread then.
NEEDED = (
    "pyarrow.parquet",
    "pydantic.type_adapter",
    "uproot",
    "xec.engines.onnx",
    "xec.io.midas.event_writer",
    "xec_client.daq.session",
    "xec_client.reprocess.calling",
    "xec_client.reprocess.local",
)
# jemalloc, Arrow's allocator, gives each fork a thread of its own again.
HARMLESS = "jemalloc_bg_thd"


def threads() -> list[str]:
    """Threads of this process that a fork would lose, by name."""
    tasks = [path for path in Path("/proc/self/task").iterdir() if path.name != str(os.getpid())]
    return [name for name in ((p / "comm").read_text().strip() for p in tasks) if name != HARMLESS]


def entries(**_: str) -> list[Any]:
    return [EntryPoint(name, place, cli.GROUP) for name, place in COMMANDS.items()]


def call(first: str, arguments: list[str], log: int) -> None:
    """One call, in a process of its own, which ends here."""
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["xec", *arguments]
    code = 1
    try:
        exec(first, {})
        cli.main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve(log: int) -> None:
    process = 0
    for line in sys.stdin:
        asked = json.loads(line)
        if asked is None:
            answer = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        else:
            assert threads() == []
            answer = process = os.fork()
            if process == 0:
                call(*asked, log)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    for name in [*NEEDED, *(place.partition(":")[0] for place in COMMANDS.values())]:
        import_module(name)
    cli.entry_points = entries
    serve(os.open(Path(sys.argv[1]), os.O_WRONLY | os.O_CREAT | os.O_APPEND))
