"""The `tailrace` command: may import everything, is imported by nobody."""
