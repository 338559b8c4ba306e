"""The ASGI application, configured from the environment: ``hypercorn -k trio relay.asgi:app``."""

import logging
import sys

from relay import logs
from relay.config import load
from relay.core.errors import ConfigError
from relay.server.app import create_app
from relay.server.bridge import AnyLoop

try:
    _settings, _redis_settings = load()
except ConfigError as error:
    sys.exit(f"relay: {error}")

logs.configure(_settings.log_level)
# The server that loads us has handlers of its own for its messages.
logging.getLogger("hypercorn.error").propagate = False
logging.getLogger("uvicorn").propagate = False

app = AnyLoop(create_app(_settings, _redis_settings))
