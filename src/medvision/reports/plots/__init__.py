"""Plots and overlays as image files."""
