"""What is deployed, read and run without a container engine."""
