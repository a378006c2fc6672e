"""Data sets with synthetic faults in stated numbers: copies, damage, leaks, shortcuts."""
