"""The programs of the peers, written as users of each library would write them. Each runs in a process of its own."""
