"""Find the images, masks, classes and given splits of a data folder."""
