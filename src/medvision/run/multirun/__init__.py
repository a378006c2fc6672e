"""Several runs of one command: jobs, summary tables, cross-validation."""
