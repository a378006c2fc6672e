"""Split samples by protocol, with intact groups and stable assignments."""
