"""Data sets stored as a few large tar files, local or remote."""
