"""Synthetic image sets, drawn from a seed."""
