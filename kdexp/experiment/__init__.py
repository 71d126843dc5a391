"""One run: its plan, its learners, and what the jobs of a process share."""
