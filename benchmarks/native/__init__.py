"""The compiled tools of the benchmarks: a fake provider, a load generator and the floor of fan-out (Linux only)."""
