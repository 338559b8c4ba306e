"""What was published, and what the clients saw of it."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields


@dataclass
class Ledger:
    """The accounts of a run."""

    acknowledged: int = 0
    delivered: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    gaps_announced: int = 0
    gaps_not_announced: int = 0
    dropped_as_slow: int = 0
    connections: int = 0
    recoveries: int = 0
    plain_published: int = 0
    plain_recorded: int = 0
    plain_duplicated: int = 0
    plain_out_of_order: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    #: Epochs that were acknowledged, by task: more than one, and Redis has lost its data.
    epochs: dict[str, set[str]] = field(default_factory=dict)
    #: In which order Redis handed out the plain publishes, told by a witness at its side: one that was frozen with two in its
    #: sockets may take the second first.
    plain_ranks: dict[int, int] = field(default_factory=dict)
    #: The first few things that went wrong.
    remarks: list[str] = field(default_factory=list)

    @property
    def is_kept(self) -> bool:
        """Redis has kept its data throughout."""
        return all(len(epochs) == 1 for epochs in self.epochs.values())

    @property
    def is_good(self) -> bool:
        """Nothing was lost silently, and nothing at all while Redis kept its data."""
        wrong = self.duplicated + self.out_of_order + self.gaps_not_announced
        wrong += self.plain_duplicated + self.plain_out_of_order
        return not wrong and not (self.gaps_announced and self.is_kept)

    def plain_rank(self, number: int, other: int) -> int:
        """Where a plain publish stood beside another: as the witness saw them, or as numbered where it was away."""
        return self.plain_ranks[number] if {number, other} <= self.plain_ranks.keys() else number

    def remark(self, text: str) -> None:
        if len(self.remarks) < 20:
            self.remarks.append(text)

    def table(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.faults.items()))
        rows = [("faults", str(sum(self.faults.values()))), ("", kinds)]
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, int):
                rows.append((item.name.replace("_", " "), str(value)))
        rows.append(("Redis kept its data", "yes" if self.is_kept else "no"))
        return "\n".join([*(f"{name:24} {value}" for name, value in rows), *self.remarks])


class Follower:
    """One client's accounts of one task: every message that it gets goes through here."""

    def __init__(self, name: str, task_id: str, ledger: Ledger, is_plain: bool, say: Callable[[str], None]) -> None:
        self.name = name
        self.task_id = task_id
        self.position: tuple[str, int] | None = None
        self.is_plain = is_plain
        self._ledger = ledger
        self._say = say
        self._expects_state = False
        self._number = 0

    def subscribed(self, epoch: str, offset: int, recovered: bool | None) -> None:
        """The answer to a subscription, or that the line is broken."""
        if recovered:
            self._ledger.recoveries += 1
            return
        if self.position is not None:
            self._ledger.gaps_announced += 1
            self._say(f"gap announced to {self.name}, {self.task_id}: {self.position} to {(epoch, offset)}")
        self.position = (epoch, offset)
        self._expects_state = True

    def update(self, epoch: str, offset: int, number: int) -> None:
        """An update with its position."""
        seen = self.position
        assert seen is not None, "an update before the answer to the subscription"
        if self._expects_state and (epoch, offset) == seen:
            self._expects_state = False
            self._number = number
            return
        self._expects_state = False
        ledger = self._ledger
        if epoch != seen[0]:
            ledger.gaps_not_announced += 1
            self._say(f"epoch changed under {self.name}, {self.task_id}: {seen} to {(epoch, offset)}")
        elif offset <= seen[1]:
            ledger.duplicated += 1
            self._say(f"duplicate for {self.name}, {self.task_id}: {seen} then {offset}")
            return
        elif offset != seen[1] + 1:
            ledger.gaps_not_announced += 1
            self._say(f"gap for {self.name}, {self.task_id}: {seen} then {offset}")
        else:
            ledger.delivered += 1
        if self.is_plain:
            if number == self._number:
                ledger.plain_duplicated += 1
                self._say(f"plain publish recorded twice: {self.task_id} {number} at {offset}")
            elif ledger.plain_rank(number, self._number) < ledger.plain_rank(self._number, number):
                ledger.plain_out_of_order += 1
                self._say(f"plain publish out of order: {self.task_id} {self._number} then {number} at {offset}")
        elif offset == seen[1] + 1 and number != self._number + 1 and self._number:
            ledger.out_of_order += 1
            self._say(f"out of order for {self.name}, {self.task_id}: {self._number} then {number}, at {offset}")
        self._number = number if self.is_plain else max(number, self._number)
        self.position = (epoch, offset)
