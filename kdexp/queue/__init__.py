"""A sweep's folder as the queue of its jobs: which are left, who works on them, and how workers are started."""
