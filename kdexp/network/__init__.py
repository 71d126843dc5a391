"""Networks: building them, loading weights, capturing layers, measuring cost."""
