"""One run: its plan, its learners, what the jobs of a process share."""
