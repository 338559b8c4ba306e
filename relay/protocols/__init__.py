"""The protocols of clients: bytes in, events out, one file for each."""
