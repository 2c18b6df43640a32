"""What an attack must leave true: memory is flat, and another client is served meanwhile."""

from __future__ import annotations

import threading
import time
from http.client import HTTPConnection, HTTPException
from typing import Self

from processes import Weir

from .report import Report

# What an attack may cost in all, and what a connection that it holds may have in buffers, in MiB.
GROWTH_MIB_MOST = 16.0
CONNECTION_MIB_MOST = 0.125


class Bystander:
    """A well-behaved client that must be served whatever else goes on, and what the gateway's memory comes to."""

    def __init__(self, weir: Weir, path: str = "/"):
        self._weir, self._path = weir, path
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.served, self.failures = 0, list[str]()
        self.resident_before = weir.resident_bytes()
        self.resident_most = self.resident_before

    @property
    def growth_mib(self) -> float:
        return (self.resident_most - self.resident_before) / 2**20

    def _run(self) -> None:
        while not self._done.wait(0.02):
            client = HTTPConnection(*self._weir.address, timeout=10)
            try:
                client.request("GET", self._path)
                response = client.getresponse()
                response.read()
                if response.status == 200:
                    self.served += 1
                else:
                    self.failures.append(str(response.status))
            except (OSError, HTTPException) as error:
                self.failures.append(repr(error))
            finally:
                client.close()
            self.resident_most = max(self.resident_most, self._weir.resident_bytes())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # At least one request after the worst.
        served = self.served
        deadline = time.monotonic() + 10
        while self.served == served and not self.failures and time.monotonic() < deadline:
            time.sleep(0.02)
        self._done.set()
        self._thread.join()

    def judge(self, report: Report, attack: str, connections: int = 0) -> None:
        """Records both, for an attack that holds `connections` open."""
        most = GROWTH_MIB_MOST + connections * CONNECTION_MIB_MOST
        report.check(f"{attack}: memory is flat", self.growth_mib < most, f"{self.growth_mib:+.1f} of {most:.1f} MiB")
        failures = f", failures {self.failures[:3]}" if self.failures else ""
        is_served = self.served > 0 and not self.failures
        report.check(f"{attack}: another client is served", is_served, f"{self.served} responses{failures}")
