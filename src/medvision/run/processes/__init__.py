"""Processes of a run: launching, failures, signals."""
