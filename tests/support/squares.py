"""Overrides for tiny colour images."""

SQUARES = (
    "dataset._target_=own_data.Squares",
    *("+dataset.image_size=32", "+dataset.in_channels=3", "+dataset.images=8"),
    *("dataset.mean=[0.4,0.4,0.4]", "dataset.std=[0.2,0.2,0.2]", "dataset.val_fraction=0", "dataset.student_fraction=1"),
    *("batch_size=4", "optimizer.lr=1e-4", "epochs=1"),
)
"""Overrides for eight colour images of 32×32 in four classes."""
