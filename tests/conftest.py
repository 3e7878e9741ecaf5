"""What every test runs under: property tests are judged by what they find, not by the clock of a busy machine."""

from hypothesis import HealthCheck, settings

settings.register_profile("tailrace", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tailrace")
