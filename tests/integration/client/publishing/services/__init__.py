"""A small service as it was, and with one changed import."""
