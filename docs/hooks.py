"""Fills the reference of commands, when the documents are built, with what --help says today."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

HELP = re.compile(r"^<!-- help: ([\w.]+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace each ``<!-- help: MODULE -->`` by the module's --help."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(help_of, HELP.findall(markdown)))
    return HELP.sub(lambda found: f"```text\n{help_of(found[1])}\n```", markdown)


@cache
def help_of(module: str) -> str:
    """What ``python -m MODULE --help`` prints, without colours and trailing blanks."""
    environment = {**os.environ, "COLUMNS": "84", "TERM": "dumb", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())
