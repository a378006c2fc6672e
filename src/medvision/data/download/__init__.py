"""Public data sets: catalogue, download, archives."""
