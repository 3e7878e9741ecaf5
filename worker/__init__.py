"""The generation edge: takes jobs, talks to providers, writes logs. Never imports `api`."""
