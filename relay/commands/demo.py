"""`relay demo`: a relay, workers and a manager that creates tasks, from the package of the job queue."""

from relay.core.errors import RelayError


def run(seconds: float | None) -> None:
    """Run the demonstration until Ctrl-C or SIGTERM. Raises RelayError where its packages are missing."""
    try:
        from relay_jobs.examples import demo
    except ModuleNotFoundError as error:
        raise RelayError(f"a package is missing ({error}). Run: pip install 'trio-relay[demo]'") from None
    demo.main([] if seconds is None else ["--seconds", str(seconds)])
