"""What clients speak: bytes in, events out, one file for each protocol."""
