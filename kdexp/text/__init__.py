"""Text that users read and type."""
