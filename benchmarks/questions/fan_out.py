"""What one more reader of the same log costs: one generation of 20 tokens a second, 1,000 readers.

Beside the systems, in the same rounds, the C floor: one `send()` of a frame's size to each of 1,000 loopback sockets.
"""

import json
import subprocess
from functools import partial

from benchmarks.bench import Bench
from benchmarks.paced import GAP_US, PER_S, sample
from benchmarks.processes import Running
from benchmarks.samples import Sample
from benchmarks.tools import fake, tool

QUESTION = "fan_out"
SYSTEMS = ("tailrace", "send_floor", "resumable", "nchan")
READERS = 1000
RAMP_S = 2.0
FRAME_BYTES = 110
"""Id, event and data of one stamped token, with the framing of its chunk."""


def measure(bench: Bench) -> list[Sample]:
    """CPU and lag in a window in which all readers are attached and the generation has its pace."""
    return bench.each(SYSTEMS, partial(_ask, bench), rounds=2 if bench.plan.quick else 50)


def _ask(bench: Bench, running: Running, number: int) -> Sample:
    if running.name == "send_floor":
        return _floor(number)
    tokens = 60 if bench.plan.quick else 120
    first_s = RAMP_S + 1
    to_s = first_s + tokens / PER_S - 0.25
    model = fake(tokens, GAP_US, round(first_s * 1e6))
    job = running.begin(model)
    options = {"readers": READERS, "url_path": running.whole(job), "ramp_s": RAMP_S, "from_s": first_s + 0.25}
    run = bench.load(running, "fan", running.route(model), tokens=tokens, timeout_s=to_s + 5, to_s=to_s, **options)
    return sample(QUESTION, running, number, run)


def _floor(number: int) -> Sample:
    command = [str(tool("send_floor")), str(READERS), str(FRAME_BYTES), "60", "20"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return Sample(QUESTION, "send_floor", number, {"window_cpu_us": float(json.loads(said)["cpu_us_per_send"])})
