"""Lets ``sweep=...`` search. Hydra scans this at every start, so nothing heavy is here."""
