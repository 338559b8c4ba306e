"""The same small application for each queue, as its users would write it: `enqueue`, and tasks that do what `work` says."""
