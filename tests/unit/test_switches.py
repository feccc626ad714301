"""Every switch can still be thrown: it finds what it replaces, so a stale one does not hide until all are proved."""

import os
import subprocess
import sys
from pathlib import Path

_THROW_EACH = """
import os, sys, traceback
import consumers.app, gateway.app, lifecycle.app, warehouse.app  # once, not in every child
from tests.switches import SWITCHES

stale = []
for name, throw in SWITCHES.items():
    pid = os.fork()  # a switch is thrown for good
    if pid == 0:
        try:
            throw()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        stale.append(name)
print(len(SWITCHES), *stale)
"""


def test_every_switch_finds_what_it_replaces() -> None:
    """No switch names a function, a line of a script or a query that is not there any more."""
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-c", _THROW_EACH]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    count, *stale = done.stdout.split()
    assert stale == [], done.stderr
    assert int(count) > 100
