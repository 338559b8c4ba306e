"""Connect with asyncio to whichever address of a host answers first (RFC 8305).

A host whose IPv6 route drops packets must not cost the whole connect time-out. `asyncio.open_connection` can do the same, but
when it is cancelled in the wrong moment it leaks the socket that was just connected.
"""

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain, zip_longest

#: Seconds that an address gets before the next one is tried as well.
STAGGER = 0.25

_AddressInfo = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]


def interleaved(addresses: Sequence[_AddressInfo]) -> list[_AddressInfo]:
    """Return the addresses so that the families take turns, beginning with that of the first."""
    first = [address for address in addresses if address[0] == addresses[0][0]]
    others = [address for address in addresses if address[0] != addresses[0][0]]
    return [address for address in chain.from_iterable(zip_longest(first, others)) if address is not None]


async def connect_socket(host: str, port: int) -> socket.socket:
    """Return a connected, non-blocking socket. Raises OSError. Cancelled, nothing is left open."""
    loop = asyncio.get_running_loop()
    addresses = interleaved(await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    connected: list[socket.socket] = []
    errors: list[OSError] = []
    progress = asyncio.Event()

    async def attempt(address: _AddressInfo) -> None:
        family, kind, protocol, _, place = address
        try:
            candidate = socket.socket(family, kind, protocol)
        except OSError as error:
            errors.append(error)
            progress.set()
            return
        try:
            candidate.setblocking(False)
            await loop.sock_connect(candidate, place)
            connected.append(candidate)
        except OSError as error:
            candidate.close()
            errors.append(error)
        except BaseException:
            candidate.close()
            raise
        finally:
            progress.set()

    try:
        async with asyncio.TaskGroup() as group:
            attempts = []
            for address in addresses:
                progress.clear()
                attempts.append(group.create_task(attempt(address)))
                with suppress(TimeoutError):
                    async with asyncio.timeout(STAGGER):
                        await progress.wait()
                if connected:
                    break
            while not connected and len(errors) < len(addresses):
                progress.clear()
                await progress.wait()
            for task in attempts:
                task.cancel()
    except BaseException:
        for each in connected:
            each.close()
        raise
    if not connected:
        raise errors[0]
    for each in connected[1:]:
        each.close()
    return connected[0]
