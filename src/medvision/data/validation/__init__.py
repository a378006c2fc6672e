"""Check every file of a data set once, and cache its properties."""
