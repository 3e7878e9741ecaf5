"""The providers: one adapter a file, and what they share."""
