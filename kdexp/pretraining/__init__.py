"""Training without labels, from whose weights a student then starts: one file per method."""
