"""`pip-audit` over the pinned dependencies, as `make check` runs it: a hole fails, no way to the service does not."""

import subprocess
import sys

WITHIN_S = 90.0
_COMMAND = (
    "-m",
    "pip_audit",
    "--requirement",
    "requirements.lock",
    "--require-hashes",
    "--disable-pip",
    "--timeout",
    "10",
)
_HOLES = "known vulnerabilit"
"""What pip-audit says where it found some; its status is 1 for everything else that goes wrong, too."""


def verdict(status: int | None, said: str) -> tuple[int, str]:
    """Exit status and sentence for what pip-audit's status (None: it did not end in time) and words come to."""
    if status == 0:
        return 0, "pip-audit: no known vulnerabilities"
    if status is not None and _HOLES in said and not said.startswith("No known"):
        return 1, said
    return 0, "pip-audit: NOT DONE, for the service that knows of vulnerabilities was not reached"


def main() -> int:
    """Run it."""
    try:
        done = subprocess.run(
            [sys.executable, *_COMMAND], capture_output=True, text=True, timeout=WITHIN_S, check=False
        )
    except subprocess.TimeoutExpired:
        status, sentence = verdict(None, "")
    else:
        status, sentence = verdict(done.returncode, done.stdout + done.stderr)
    sys.stdout.write(sentence.rstrip() + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
