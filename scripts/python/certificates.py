"""A certificate for a TLS listener under test."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processes import LOOPBACK, Address


@dataclass(frozen=True)
class Certificate:
    """A certificate that vouches for itself."""

    cert: Path
    key: Path

    def listener(self, address: Address = (LOOPBACK, 0)) -> dict[str, Any]:
        """An entry of Weir's `listen`."""
        files = {"cert": str(self.cert), "key": str(self.key)}
        return {"address": "{}:{}".format(*address), "tls": {"certificates": [files]}}


def make_certificate(directory: Path, host: str) -> Certificate:
    """An ECDSA certificate for `host` and the loopback address: cert.pem, key.pem, and both in server.pem."""
    made = Certificate(directory / "cert.pem", directory / "key.pem")
    names = ["-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host},IP:{LOOPBACK}"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", str(made.key), "-out", str(made.cert)]
    subprocess.run(["openssl", "req", "-x509", *curve, "-days", "30", *names, *files], check=True, capture_output=True)
    (directory / "server.pem").write_text(made.cert.read_text() + made.key.read_text())
    return made
