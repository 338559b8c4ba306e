"""The watches of a process: each learns of a request once, however it comes, and no flag stays unread."""

from hypothesis import given
from hypothesis import strategies as st
from relay_client.cancellation.watches import Watch, Watches

_TASKS = ("a", "b", "c")
_STEPS = st.lists(
    st.tuples(st.sampled_from(("add", "close", "request", "reconnect", "read", "fail")), st.sampled_from(_TASKS)),
    max_size=40,
)


def _ignored() -> None:
    """Nobody waits for flags."""


def test_a_callback_that_fails_is_logged() -> None:
    watches = Watches(_ignored)
    called: list[str] = []
    watches.add(Watch("a", lambda _: 1 / 0, watches.discard))
    watches.add(Watch("a", called.append, watches.discard))
    watches.request("a", "why")
    assert called == ["why"]


def test_a_watch_that_is_closed_is_not_called() -> None:
    watches = Watches(_ignored)
    called: list[str] = []
    with Watch("a", called.append, watches.discard) as watch:
        watches.add(watch)
    watches.request("a", "why")
    watches.mark_all_unread()
    assert (called, len(watches), watches.take_unread(10)) == ([], 0, [])


def test_few_flags_are_taken_at_once() -> None:
    signals: list[None] = []
    watches = Watches(lambda: signals.append(None))
    for number in range(5):
        watches.add(Watch(str(number), None, watches.discard))
    assert signals
    assert watches.take_unread(3) == ["0", "1", "2"]
    watches.mark_unread(["0", "gone"])
    assert watches.take_unread(3) == ["3", "4", "0"]
    assert watches.take_unread(3) == []


def test_a_request_for_a_parent_reaches_all_below_it() -> None:
    watches = Watches(_ignored)
    called: list[str] = []
    child = Watch("child", called.append, watches.discard)
    watches.add(child)
    watches.on_flag("child", None, "parent")
    watches.on_flag("parent", None, "grandparent")
    assert watches.take_unread(10) == ["child", "parent", "grandparent"]
    watches.request("other", "why")
    watches.request("grandparent", "why")
    assert called == ["why"]
    child.close()
    assert (len(watches), watches.take_unread(10)) == (0, [])


def test_parents_in_a_circle_are_harmless() -> None:
    watches = Watches(_ignored)
    watching = [Watch(name, None, watches.discard) for name in "ab"]
    for watch in watching:
        watches.add(watch)
    watches.on_flag("a", None, "a")
    watches.on_flag("a", None, "b")
    watches.on_flag("b", None, "a")
    watches.request("b", "why")
    assert [bool(watch.cancelled) for watch in watching] == [True, True]
    for watch in watching:
        watch.close()
    assert len(watches) == 0


def test_another_life_may_have_another_parent() -> None:
    watches = Watches(_ignored)
    watch = Watch("a", None, watches.discard)
    watches.add(watch)
    watches.on_flag("a", None, "former")
    watches.on_flag("a", None, "present")
    watches.request("former", "why")
    assert not watch.cancelled
    watches.request("present", "why")
    assert watch.cancelled


@given(_STEPS)
def test_no_request_is_missed(steps: list[tuple[str, str]]) -> None:
    """A model of Redis: flags, a connection that loses messages when it breaks, and reads that may fail."""
    watches = Watches(_ignored)
    flags: set[str] = set()
    open_watches: list[tuple[Watch, list[str]]] = []
    is_connected = False
    for step, task_id in steps:
        if step == "add":
            called: list[str] = []
            watch = Watch(task_id, called.append, watches.discard)
            watches.add(watch)
            open_watches.append((watch, called))
        elif step == "close" and open_watches:
            open_watches.pop(0)[0].close()
        elif step == "request":
            flags.add(task_id)
            if is_connected:
                watches.request(task_id, "message")
        elif step == "reconnect":
            is_connected = not is_connected
            if is_connected:
                watches.mark_all_unread()
        elif step == "read":
            for each in watches.take_unread(2):
                if each in flags:
                    watches.request(each, "flag")
        elif step == "fail":
            watches.mark_unread(watches.take_unread(2))
    if not is_connected:
        watches.mark_all_unread()
    while unread := watches.take_unread(2):
        for each in unread:
            if each in flags:
                watches.request(each, "flag")
    for watch, called in open_watches:
        assert bool(watch.cancelled) == (watch.task_id in flags)
        assert len(called) == (watch.task_id in flags)
