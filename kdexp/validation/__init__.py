"""Everything that can be wrong with a configuration, found before anything is trained."""
