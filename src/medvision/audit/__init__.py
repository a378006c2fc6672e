"""Data set audit: pure functions that derive findings from file properties, and their report."""
