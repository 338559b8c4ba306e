"""`relay doctor`: follows the way of an update, and says what is wrong on it and what to do."""
