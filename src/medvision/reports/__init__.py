"""Human-readable reports of results, without Lightning or networks."""
