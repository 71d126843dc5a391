"""The parts of `benchmarks/gpu.py`, each of them a module that lists what it measures; `catalogue.py` names them."""
