"""Tasks that are handed to workers through Redis: what to do (`job`), how it waits and is taken (`queue`, `scripts`), who
hands it in (`manager`, `aio_manager`), and who does it (`worker`, `attempt`, `task`)."""
