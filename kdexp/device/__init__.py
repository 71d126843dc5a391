"""Where and how numbers are computed."""
