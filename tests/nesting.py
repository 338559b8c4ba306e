"""How deep JSON has to be nested to be refused."""

import sys

#: More than Python can read. Python 3.14 goes on as far as the stack reaches.
TOO_DEEP = 10_000 if sys.version_info < (3, 14) else 500_000
