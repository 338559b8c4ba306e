"""The result of a fault run: what was published, and what each client received."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields


@dataclass
class FaultReport:
    """The counts of a fault run."""

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
    #: The epochs of acknowledged updates, by task. More than one means that Redis lost its data.
    epochs: dict[str, set[str]] = field(default_factory=dict)
    #: The order in which Redis delivered the plain publishes to a subscriber of its own. It may differ from the order of
    #: publishing: a Redis that was frozen reads its sockets in any order.
    plain_order: dict[int, int] = field(default_factory=dict)
    #: Descriptions of the first failures.
    problems: list[str] = field(default_factory=list)

    @property
    def redis_kept_data(self) -> bool:
        """Whether Redis kept its data during the whole run."""
        return all(len(epochs) == 1 for epochs in self.epochs.values())

    @property
    def passed(self) -> bool:
        """Whether no update was lost silently, and none at all if Redis kept its data."""
        wrong = self.duplicated + self.out_of_order + self.gaps_not_announced
        wrong += self.plain_duplicated + self.plain_out_of_order
        return not wrong and not (self.gaps_announced and self.redis_kept_data)

    def plain_order_of(self, number: int, other: int) -> int:
        """Return the place of a plain publish relative to another one: as Redis delivered them if known, else as numbered."""
        return self.plain_order[number] if {number, other} <= self.plain_order.keys() else number

    def add_problem(self, text: str) -> None:
        if len(self.problems) < 20:
            self.problems.append(text)

    def table(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.faults.items()))
        rows = [("faults", str(sum(self.faults.values()))), ("", kinds)]
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, int):
                rows.append((item.name.replace("_", " "), str(value)))
        rows.append(("Redis kept its data", "yes" if self.redis_kept_data else "no"))
        return "\n".join([*(f"{name:24} {value}" for name, value in rows), *self.problems])


class UpdateChecker:
    """Checks the messages that one client receives for one task, and counts them in the report."""

    def __init__(
        self, name: str, task_id: str, report: FaultReport, is_plain: bool, log: Callable[[str], None]
    ) -> None:
        self.name = name
        self.task_id = task_id
        self.position: tuple[str, int] | None = None
        self.is_plain = is_plain
        self._report = report
        self._log = log
        self._expects_state = False
        self._number = 0

    def subscribed(self, epoch: str, offset: int, recovered: bool | None) -> None:
        """Take the answer to a subscription, or the notice that the history was lost."""
        if recovered:
            self._report.recoveries += 1
            return
        if self.position is not None:
            self._report.gaps_announced += 1
            self._log(f"gap announced to {self.name}, {self.task_id}: {self.position} to {(epoch, offset)}")
        self.position = (epoch, offset)
        self._expects_state = True

    def update(self, epoch: str, offset: int, number: int) -> None:
        """Take an update with its position."""
        seen = self.position
        assert seen is not None, "an update before the answer to the subscription"
        if self._expects_state and (epoch, offset) == seen:
            self._expects_state = False
            self._number = number
            return
        self._expects_state = False
        report = self._report
        if epoch != seen[0]:
            report.gaps_not_announced += 1
            self._log(f"epoch changed under {self.name}, {self.task_id}: {seen} to {(epoch, offset)}")
        elif offset <= seen[1]:
            report.duplicated += 1
            self._log(f"duplicate for {self.name}, {self.task_id}: {seen} then {offset}")
            return
        elif offset != seen[1] + 1:
            report.gaps_not_announced += 1
            self._log(f"gap for {self.name}, {self.task_id}: {seen} then {offset}")
        else:
            report.delivered += 1
        if self.is_plain:
            if number == self._number:
                report.plain_duplicated += 1
                self._log(f"plain publish recorded twice: {self.task_id} {number} at {offset}")
            elif report.plain_order_of(number, self._number) < report.plain_order_of(self._number, number):
                report.plain_out_of_order += 1
                self._log(f"plain publish out of order: {self.task_id} {self._number} then {number} at {offset}")
        elif offset == seen[1] + 1 and number != self._number + 1 and self._number:
            report.out_of_order += 1
            self._log(f"out of order for {self.name}, {self.task_id}: {self._number} then {number}, at {offset}")
        self._number = number if self.is_plain else max(number, self._number)
        self.position = (epoch, offset)
