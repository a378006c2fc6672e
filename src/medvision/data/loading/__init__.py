"""From a prepared data set to batches: order, augmentation, loader processes."""
