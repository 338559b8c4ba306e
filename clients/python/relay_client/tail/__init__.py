"""`relay tail`: follow tasks from a terminal. Needs the extra ``tail``."""
