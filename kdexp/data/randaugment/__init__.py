"""RandAugment in bulk: Pillow's operations on whole batches, a different one with a different magnitude for each image."""
