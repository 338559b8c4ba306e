"""The answers of this relay to questions that go to all of them: what it is and does, and which channels its clients follow."""

from collections import Counter
from collections.abc import Iterable

import msgspec

from relay.core.extra_channels import name_of
from relay.core.json_errors import NOT_JSON
from relay.core.topics import TOPICS
from relay.server.relay_report import RelayReports

#: The questions.
INFO = "info"
CHANNELS = "channels"
STATUS = "status"

_json = msgspec.json.Encoder().encode
_decode_counts = msgspec.json.Decoder(dict[str, int]).decode


class NodeReports:
    """Answers for this relay.

    Args:
        reports: What it reports of itself.
    """

    def __init__(self, reports: RelayReports) -> None:
        self._reports = reports

    def answer(self, uid: str, question: str) -> bytes:
        """Return the answer to a question, as JSON.

        Args:
            uid: This relay's name among the others.
            question: INFO, CHANNELS or STATUS.
        """
        if question == INFO:
            return _json(self._info(uid))
        if question == CHANNELS:
            return _json(
                {name_of(name): count for name, count in self._reports.hub.subscriber_counts() if name != TOPICS}
            )
        if question == STATUS:
            return _json(self._reports.report(uid))
        return b"null"

    def _info(self, uid: str) -> dict[str, object]:
        report = self._reports.report(uid)
        return {
            "uid": uid,
            "name": report.name,
            "version": report.version,
            "num_clients": report.clients,
            "num_users": report.users,
            "num_channels": report.channels,
            "num_subs": report.subscriptions,
            "uptime": int(report.uptime),
        }


def merged_channels(answers: Iterable[bytes]) -> dict[str, int]:
    """Return how many clients follow each channel, over the answers of all relays. What cannot be read is left out."""
    counts: Counter[str] = Counter()
    for each in answers:
        try:
            counts.update(_decode_counts(each))
        except NOT_JSON:
            continue
    return dict(counts)
