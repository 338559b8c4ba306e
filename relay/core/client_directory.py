"""The connected clients of this process by their ids and users, for those who address them from outside."""

from collections.abc import Iterable
from typing import Protocol

from relay.core.client_orders import AddressedOrder, Order


class AddressedClient(Protocol):
    """A client that has an id. Nothing here waits."""

    def give_order(self, order: Order) -> None:
        """Do what the server's API asks for."""


class ClientDirectory:
    """Clients by their ids and users."""

    def __init__(self) -> None:
        self._by_id: dict[str, tuple[AddressedClient, str]] = {}
        self._by_user: dict[str, dict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def user_count(self) -> int:
        """How many users they are; those without one count as one."""
        return len(self._by_user)

    def add(self, client: AddressedClient, id: str, user: str) -> None:
        """Note a client that has connected. Its id is of no other."""
        self._by_id[id] = client, user
        self._by_user.setdefault(user, {})[id] = None

    def remove(self, id: str) -> None:
        """Forget a client that has left; one that is not known changes nothing."""
        _, user = self._by_id.pop(id, (None, ""))
        ids = self._by_user.get(user, {})
        if id in ids:
            del ids[id]
            if not ids:
                del self._by_user[user]

    def find(self, id: str) -> AddressedClient | None:
        """Return the client with an id."""
        return self._by_id[id][0] if id in self._by_id else None

    def give(self, addressed: AddressedOrder) -> None:
        """Pass an order on to the clients that it is for."""
        ids: Iterable[str] = self._by_user.get(addressed.user, ())
        if addressed.client:
            ids = (addressed.client,) if addressed.client in ids else ()
        for id in [id for id in ids if id not in addressed.spared]:
            self._by_id[id][0].give_order(addressed.order)
