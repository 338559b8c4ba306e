"""Progress of tasks: what a worker reports is merged, and sent at a limited rate."""
