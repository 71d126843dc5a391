"""Model families, one file each. A family declares its `landmarks`, from which methods choose layers."""
