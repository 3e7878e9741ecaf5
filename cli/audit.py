"""The dependency audit of `make check`: known holes fail it; packages that nobody could look up are named."""

import json
import subprocess
import sys
from pathlib import Path

BOUND_S = 90


def verdict(report: str) -> tuple[int, str]:
    """The exit code and one sentence for what pip-audit wrote as JSON."""
    try:
        found = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return 0, "audit: NOT DONE, no vulnerability service was reached."
    holes = [f"{one['name']} {one['version']}: {hole['id']}" for one in found for hole in one.get("vulns", ())]
    if holes:
        return 1, "audit: known holes\n  " + "\n  ".join(holes)
    skipped = sum("skip_reason" in one for one in found)
    if skipped == len(found):
        return 0, "audit: NOT DONE, none of the packages could be looked up."
    if skipped:
        return 0, f"audit: NOT COMPLETE, {skipped} of {len(found)} packages were not looked up; no hole in the others."
    return 0, f"audit: {len(found)} packages, no known hole."


def main() -> int:
    """Audit requirements.lock, for at most `BOUND_S` seconds."""
    tool = Path(sys.executable).parent / "pip-audit"
    command = [str(tool), "-r", "requirements.lock", "--disable-pip", "--no-deps", "--timeout", "5", "-f", "json"]
    try:
        report = subprocess.run(command, capture_output=True, text=True, timeout=BOUND_S, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        report = ""
    code, sentence = verdict(report)
    sys.stdout.write(sentence + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
