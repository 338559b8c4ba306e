"""What the commands of `relay` do. `relay.cli` declares them, and imports each of these only when its command runs."""
