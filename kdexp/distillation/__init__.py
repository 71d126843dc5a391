"""Distillation methods: the word after `distillation=` is the file's name."""
