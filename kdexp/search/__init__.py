"""Search for hyperparameters: the values to choose from, who proposes them, and what became of every trial."""
