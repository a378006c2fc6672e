"""Hyper-parameter searches from the command line."""
