"""From results to files that a person reads; no Lightning, no networks."""
