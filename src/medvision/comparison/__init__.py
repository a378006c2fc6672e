"""Compare finished runs: tables, paired intervals, verdicts."""
