"""The faults that clients/run makes in a running server, as a program of ../SCENARIO.md asks for them."""

import resource
import sqlite3
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

POLL_SECONDS = 0.02
# A fault ends after this time even if the server never answers as expected. The program then reports what is wrong.
PATIENCE_SECONDS = 5
CHARGES = 'rpc_server_call_duration_seconds_count{rpc_method="boxoffice.v1.WalletService/ChargeWallet"'


class Faults:
    """Faults in one server. A program asks for each with a line, and gets a line as the answer."""

    def __init__(self, pid: int, database: Path, log_file: Path, http_address: str) -> None:
        self.pid = pid
        self.database = database
        self.log_file = log_file
        self.http_address = http_address
        self.answers: dict[str, Callable[[], str]] = {
            "lock the database until a call is refused": self.lock_database,
            "fill the disk until a call fails": self.fill_disk,
            "count the refused calls": lambda: str(self.count("RESOURCE_EXHAUSTED")),
            "count the failed calls": lambda: str(self.count("UNAVAILABLE")),
            "count the unknown outcomes": self.count_unknown,
        }

    def answer(self, line: str) -> str | None:
        """Does what a line asks for and returns the answer, or None if the line asks for nothing."""
        fault = self.answers.get(line)
        return fault() if fault else None

    def count(self, code: str) -> int:
        """How many attempts of ChargeWallet the server answered with this code."""
        with urllib.request.urlopen(f"http://{self.http_address}/metrics", timeout=5) as response:
            lines = response.read().decode().splitlines()
        counts = [line.split()[-1] for line in lines if line.startswith(CHARGES) and f'"{code}"' in line]
        return sum(int(count) for count in counts)

    def lock_database(self) -> str:
        """Keeps the server from writing, so that a call stays in flight until another one was refused."""
        locked = threading.Event()

        def hold() -> None:
            refused = self.count("RESOURCE_EXHAUSTED")
            lock = sqlite3.connect(self.database, isolation_level=None)
            lock.execute("PRAGMA busy_timeout = 5000")
            lock.execute("BEGIN IMMEDIATE")
            locked.set()
            self.wait_until(lambda: self.count("RESOURCE_EXHAUSTED") > refused)
            lock.execute("ROLLBACK")
            lock.close()

        threading.Thread(target=hold).start()
        locked.wait()
        return "done"

    def fill_disk(self) -> str:
        """Lets no file of the server grow until a call failed. A commit then fails, and the server cannot know its
        outcome."""
        failed = self.count("UNAVAILABLE")
        _, hard = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (0, hard))

        def free() -> None:
            self.wait_until(lambda: self.count("UNAVAILABLE") > failed)
            resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (hard, hard))

        threading.Thread(target=free).start()
        return "done"

    def count_unknown(self) -> str:
        """How many commits with an unknown outcome the server logged."""
        # The log comes through a pipe.
        time.sleep(0.5)
        return str(self.log_file.read_text().count("the outcome of a commit is unknown"))

    @staticmethod
    def wait_until(happened: Callable[[], bool]) -> None:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while not happened() and time.monotonic() < give_up_at:
            time.sleep(POLL_SECONDS)
