"""Model families, one file each; a family declares its `roles` so that methods know its layers."""
