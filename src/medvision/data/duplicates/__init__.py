"""Find images that show the same picture."""
