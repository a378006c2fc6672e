"""The run folder, saved runs, resuming, and the ledger of test evaluations."""
