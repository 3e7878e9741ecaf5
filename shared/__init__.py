"""The vocabulary and the storage that every process shares; imports neither `api` nor `worker`."""
