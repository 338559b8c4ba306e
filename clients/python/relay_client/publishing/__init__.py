"""Delivery of updates to Redis: a queue without I/O, one asynchronous sender, and runtimes for asyncio, Trio and threads."""
