"""What the providers say: the texts that a job's attempts may consist of, computed from its plan alone."""

from chaos.judge import Terms
from chaos.plan import JobPlan
from chaos.provider import numbered
from shared.params import ScriptedParams
from worker.providers.scripted import script

_PROVIDER_CODES = frozenset(
    {"provider_unavailable", "provider_interrupted", "provider_rate_limited", "provider_timeout", "provider_protocol"}
)


def terms_of(plan: JobPlan, calls: int, *, cancelled: bool, within_s: float) -> Terms:
    """The terms that a job is judged by. `calls`: how often its provider was called over the wire."""
    params = ScriptedParams.model_validate(plan.params) if plan.provider == "scripted" else None

    def says(attempt: int, kept: str) -> list[str]:
        if params is not None:
            return ["".join(script(params, attempt, kept))]
        return [numbered(plan.prompt, call) for call in range(1, calls + 1)]

    # Any job of a vendor may meet a circuit that another job's faults have opened.
    codes = frozenset[str]() if plan.provider == "scripted" else _PROVIDER_CODES
    return Terms(plan.on_interrupt, says, codes, cancelled, within_s * 1000)


def calls_too_many(plan: JobPlan, calls: int, attempts: int) -> list[str]:
    """One generation an attempt, beside those that the plan's fault breaks before their first token."""
    asked = plan.prompt.count("fault:")
    if plan.provider == "scripted" or calls <= attempts + asked:
        return []
    return [f"the provider was called {calls} times in {attempts} attempts"]
