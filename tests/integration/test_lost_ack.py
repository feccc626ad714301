"""The example of the lost answer shows what docs/lost-ack.md says."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_version_number_deducts_twice_and_ledger_row_once() -> None:
    """One purchase whose COMMIT answer is lost: 8 of 10 are left by the version number, 9 by the ledger row."""
    done = subprocess.run(
        [sys.executable, "examples/lost_ack.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "version number: 8 left, so the purchase was deducted twice" in done.stdout
    assert "ledger row:     9 left, so the purchase was deducted once" in done.stdout
