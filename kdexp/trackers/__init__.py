"""Experiment trackers that a run reports to (`logger=[tensorboard,mlflow,wandb]`), one file for each."""
