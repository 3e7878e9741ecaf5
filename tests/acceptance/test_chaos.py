"""A short run of the chaos program: no violation, faults that bite, and nothing that stays behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cluster import clean_environment

ROUNDS, SEED = 12, 528
GUARD_S = 300.0
"""A guard, not a promise: the program ends by itself long before."""


@pytest.mark.timeout(GUARD_S + 30)
def test_readers_and_jobs_come_through_a_dozen_faults_without_a_violation(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "chaos", "--rounds", str(ROUNDS), "--seed", str(SEED), "--lease-s", "2"],
        env={**clean_environment(), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=GUARD_S,
        check=False,
    )

    assert said.returncode == 0, said.stdout + said.stderr
    assert said.stdout.startswith(f"seed {SEED}, {ROUNDS} rounds")
    assert "violations: 0" in said.stdout
    assert list(tmp_path.iterdir()) == [], "a good run leaves nothing behind"
