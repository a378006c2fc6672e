"""Hydra plugin for ``sweep=...``. Hydra scans it at every start, so it imports nothing slow."""
