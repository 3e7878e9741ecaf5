"""A fuzz program for what reads strangers' bytes and what writes frames; `make fuzz` runs it for long."""
