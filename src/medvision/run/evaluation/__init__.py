"""Evaluate a finished run again, on its own or on other data."""
