"""Receiving requests to cancel tasks: one module for each runtime.

The reporters use them with ``cancellable=True``. For other programs: `relay_client.CancelListener`, and the same name in
`relay_client.aio` and `relay_client.trio`.
"""
