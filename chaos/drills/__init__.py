"""Drills: one program for each promise of docs/reliability.md. Each breaks what it speaks of and prints the figure."""
