"""Train one run: build, fit, test, write results."""
