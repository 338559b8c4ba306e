"""Workers to start from, and a demonstration of all the parts together: `python -m relay_jobs.examples.demo`."""
