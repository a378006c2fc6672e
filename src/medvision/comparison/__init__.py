"""Comparison of finished runs: tables, paired intervals, verdicts."""
