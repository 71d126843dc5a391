"""The remark below a table on students whose weights are averaged."""


def averaged_words(decay: float) -> str:
    """What the accuracies of such students are."""
    return f"averaged (EMA, decay {decay:g}): students are evaluated and stored as the moving average of their weights."
