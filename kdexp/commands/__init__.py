"""The commands: kdexp, kdexp-store, kdexp-report, kdexp-export."""
