"""The ASGI application, configured from the environment: ``hypercorn -k trio relay.asgi:app``."""

import logging
import multiprocessing
import sys

from relay import logs
from relay.config import load
from relay.core.errors import ConfigError
from relay.processes import die_with_parent
from relay.profile import require_safe
from relay.server.app import create_app
from relay.server.bridge import AsgiDispatcher
from relay.server.trace_setup import require_trace_packages

try:
    _settings, _redis_settings = load()
    require_safe(_settings, _redis_settings)
    require_trace_packages(_settings)
except ConfigError as error:
    sys.exit(f"relay: {error}")

if multiprocessing.parent_process() is not None:
    die_with_parent()  # a worker of Hypercorn or uvicorn, which do not take care of that
logs.configure(_settings.log_level)
# The server that loads us has handlers of its own for its messages.
logging.getLogger("hypercorn.error").propagate = False
logging.getLogger("uvicorn").propagate = False

app = AsgiDispatcher(create_app(_settings, _redis_settings))
