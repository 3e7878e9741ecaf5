"""What several test folders share: stores, processes, a provider that speaks the real wire formats."""
