"""Prints each event of boxoffice on one line: `consumer.py 127.0.0.1:50052 cursor.txt`.

The file keeps the number of the last handled event. So the consumer continues after a restart of this program or of the
server. It may handle an event again, but it never misses one. If the server requires an API key, set BOXOFFICE_API_KEY.
"""

import os
import sys
import time
from pathlib import Path

import grpc

from boxoffice.v1.event_service_pb2 import Event, WatchEventsRequest
from boxoffice.v1.event_service_pb2_grpc import EventServiceStub
from failure import Failure

# How long to wait before a broken stream is opened again, where the server did not say.
RETRY_SECONDS = 0.5
# While nothing happens, the channel checks this often that the server still answers.
KEEPALIVE = [("grpc.keepalive_time_ms", 20_000), ("grpc.keepalive_timeout_ms", 5_000)]
# The failures after which the stream is opened again.
PASSING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
}


class Cursor:
    """The number of the last handled event, in a file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.is_new = not file.exists()
        self.number = 0 if self.is_new else int(file.read_text())

    def store(self, number: int) -> None:
        """Replaces the file. After a crash, the file has either the old or the new number."""
        written = self.file.with_suffix(".new")
        with written.open("w") as output:
            output.write(f"{number}\n")
            output.flush()
            os.fsync(output.fileno())
        written.replace(self.file)
        self.number, self.is_new = number, False


def handle(event: Event) -> None:
    """Does the work of this consumer: a real one would print tickets or send mails."""
    print(event.event_number, event.WhichOneof("kind"), event.concert_code, flush=True)


def follow(events: EventServiceStub, cursor: Cursor, metadata: list[tuple[str, str]]) -> None:
    """Handles the events after the cursor, and moves the cursor after each message."""
    request = WatchEventsRequest(after_event_number=cursor.number)
    for message in events.WatchEvents(request, metadata=metadata):
        for event in message.events:
            handle(event)
        # A message without events also moves the cursor, past the events that do not match a filter.
        if message.next_after_event_number != cursor.number:
            cursor.store(message.next_after_event_number)


def run(address: str, cursor: Cursor) -> None:
    api_key = os.environ.get("BOXOFFICE_API_KEY")
    metadata = [("x-api-key", api_key)] if api_key else []
    with grpc.insecure_channel(address, options=KEEPALIVE) as channel:
        while True:
            try:
                follow(EventServiceStub(channel), cursor, metadata)
            except grpc.RpcError as error:
                failure = Failure.of(error)
                if failure.reason == "EVENTS_COMPACTED" and cursor.is_new:
                    # A new consumer begins with the oldest event that is kept.
                    cursor.number = int(failure.metadata["oldest_event_number"]) - 1
                    continue
                if failure.code not in PASSING:
                    # After EVENTS_COMPACTED, a consumer must read the current state in another way.
                    sys.exit(f"the events cannot be read: {failure}")
                print(f"opening the stream again after {failure}", file=sys.stderr)
                time.sleep(failure.retry_seconds or RETRY_SECONDS)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: consumer.py HOST:PORT CURSOR_FILE")
    try:
        run(sys.argv[1], Cursor(Path(sys.argv[2])))
    except KeyboardInterrupt:
        pass
