"""Reading a process's /metrics in a test, as Prometheus would."""

from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

GUARD_S = 20


def value(base_url: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples that carry these labels; 0 where there is none."""
    with urlopen(f"{base_url}/metrics", timeout=GUARD_S) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )
