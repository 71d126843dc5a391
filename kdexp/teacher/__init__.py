"""The frozen teacher, and where its outputs come from."""
