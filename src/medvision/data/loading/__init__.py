"""Batches of a prepared data set: order, augmentation, loader processes."""
