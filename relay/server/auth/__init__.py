"""Who a client is and what it may do: from its credentials to its grant."""
