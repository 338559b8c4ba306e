"""`relay doctor` against real set-ups, most of them broken."""
