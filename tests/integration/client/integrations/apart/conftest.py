"""Without a Python that has the library, `make test` leaves these out."""

import os

collect_ignore_glob = [] if os.environ.get("STORY_PYTHON") else ["test_*.py"]
