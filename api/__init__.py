"""The HTTP edge: takes jobs, shows them, streams their events. Never imports `worker`."""
