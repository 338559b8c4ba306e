"""Plain data and decisions: nothing here awaits, reads a clock, or knows of Trio, Redis or sockets."""
