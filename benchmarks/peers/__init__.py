"""Servers that others' libraries make easy to write: one Redis subscription, each message sent to each subscriber."""
