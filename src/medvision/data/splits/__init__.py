"""Split samples by protocol, with whole groups and stable assignments."""
