"""Trio and ASGI: the nursery tree, one client's session, and the ways to its socket."""
