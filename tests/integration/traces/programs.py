"""The publisher and the subscriber of the tests: programs with OpenTelemetry's SDK, as applications have it.

python -m tests.integration.traces.programs subscriber http://127.0.0.1:8000 2   # takes two updates of the task "t"
python -m tests.integration.traces.programs publisher durable                    # publishes one, and says in what trace
"""

import sys

import trio
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from relay_client import Publisher, TaskReporter, http
from relay_client.subscriber.trio import subscribe


def publish(way: str, *arguments: str) -> None:
    """Publish an update in a span of the program, and print the id of its trace."""
    with trace.get_tracer("app").start_as_current_span("job") as span:
        print(f"{span.get_span_context().trace_id:032x}", flush=True)
        if way == "http":
            with http.Publisher(arguments[0]) as publisher:
                publisher.publish_task_update("t", {"way": way})
        elif way == "reporter":
            with TaskReporter() as reporter, reporter("t") as task:
                task.update(way=way)
        else:
            with Publisher() as publisher:
                publisher.publish_task_update("t", {"way": way}, durable=way == "durable")


async def follow(url: str, count: str) -> None:
    """Take some updates of a task, and print their trace contexts."""
    async with subscribe(url, ["t"]) as updates:
        await updates.established()
        print("established", flush=True)
        for _ in range(int(count)):
            print((await anext(updates)).traceparent, flush=True)


def main() -> None:
    """Run a program, and export its spans before it ends."""
    program, *arguments = sys.argv[1:]
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=100))
    trace.set_tracer_provider(provider)
    if program == "publisher":
        publish(*arguments)
    else:
        url, count = arguments
        trio.run(follow, url, count)
    provider.shutdown()


if __name__ == "__main__":
    main()
