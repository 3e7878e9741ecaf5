"""Benchmarks: one script a question. They bind and talk to loopback only and end by themselves."""
