"""Weight files, independent of the model: reading one, matching its names to a network, and reading all of a run."""
