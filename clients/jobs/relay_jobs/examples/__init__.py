"""Workers to start from, and a demonstration of all parts together: `python -m relay_jobs.examples.demo`."""
