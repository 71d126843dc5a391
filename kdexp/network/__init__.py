"""Networks: built, started from weights, captured, measured."""
