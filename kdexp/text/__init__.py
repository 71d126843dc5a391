"""What users read and type."""
