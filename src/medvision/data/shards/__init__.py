"""Data sets as a few large tar files, local or at an address."""
