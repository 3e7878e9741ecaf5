"""Everything that knows Redis/Valkey: keys, server-side scripts, the log, the job store, the indices."""
