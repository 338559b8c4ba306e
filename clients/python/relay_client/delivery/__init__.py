"""How calls get to Redis: in order, within bounds, through short outages. One module decides, and never does I/O."""
