"""The code behind the commands of `relay`. `relay.cli` declares them, and imports each of these only when its command runs."""
