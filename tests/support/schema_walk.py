"""`python -m tests.support.schema_walk`: schemathesis over the whole OpenAPI document of a node that runs, all checks.

`--cases N`: about so many of each operation (`make schema`: more than 5,000 in all); `--seed`: which ones. It ends
with schemathesis's status, and with 1 where the node has died or logged an error of its own.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from tests.contract.conftest import openai_on_loopback
from tests.support.cluster import running_cluster

_CONFIG = Path(__file__).with_name("schemathesis.toml")
_SETTINGS = {
    "TAILRACE_API_KEYS": "acme:key-of-acme",
    # Jobs that nobody means end soon; limits would answer in the place of what is to be tested.
    "TAILRACE_JOB_DEADLINE_S": "2",
    "TAILRACE_KEY_REQUESTS_PER_S": "0",
    "TAILRACE_TENANT_OPEN_JOBS": "0",
    "TAILRACE_MAX_QUEUED_JOBS": "100000",
    "TAILRACE_FAILED_AUTH_PER_S": "0",
}


def walk(cases: int, seed: int, within_s: float) -> tuple[int, str]:
    """Status and words of schemathesis. subprocess.TimeoutExpired after `within_s`."""
    with (
        openai_on_loopback() as env,
        running_cluster(api=1, workers=1, env={**env, **_SETTINGS}) as cluster,
    ):
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(_CONFIG)]
        command += ["run", f"{cluster.url}/openapi.json", "-H", "Authorization: Bearer key-of-acme", "--checks", "all"]
        command += ["-n", str(cases), "--seed", str(seed), "--request-timeout", "20", "--continue-on-failure"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=within_s, check=False)
        broken = [
            line
            for process in (*cluster.apis, *cluster.workers)
            for line in process.log.splitlines()
            if '"level": "error"' in line or '"level": "critical"' in line
        ]
        status = done.returncode or int(bool(broken) or not cluster.apis[0].alive)
        return status, done.stdout + done.stderr + "\n".join(broken)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser("python -m tests.support.schema_walk", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--within-s", type=float, default=1200)
    asked = parser.parse_args()
    status, said = walk(asked.cases, asked.seed, asked.within_s)
    sys.stdout.write(said + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
