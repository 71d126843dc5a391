"""Tasks that networks are trained for, and their metrics."""
