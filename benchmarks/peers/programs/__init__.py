"""The peers' programs, written as users of each library would write them. Each is run in a process of its own."""
