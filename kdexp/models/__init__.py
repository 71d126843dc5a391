"""Model families, one file each; a family declares its `landmarks` so that methods know its layers."""
