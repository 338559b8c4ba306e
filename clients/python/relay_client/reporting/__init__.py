"""What a task tells of itself: collected and merged without I/O, sent by the shells in `relay_client.reporter` and its like."""
