"""An upstream with large bodies: `/bytes/N` sends N bytes, and a POST is answered with the digest of its body."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from processes import LOOPBACK

BLOCK = bytes(range(256)) * 256


def blocks(length: int) -> list[bytes]:
    """`length` bytes that are the same each time."""
    whole, rest = divmod(length, len(BLOCK))
    return [BLOCK] * whole + [BLOCK[:rest]]


def digest(parts: list[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        length = int(self.path.rpartition("/")[2] or 0)
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        chunked = self.path.startswith("/chunked/")
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        try:
            for block in blocks(length):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block) if chunked and block else block)
            if chunked:
                self.wfile.write(b"0\r\n\r\n")
        except ConnectionError:
            self.close_connection = True

    def do_POST(self) -> None:
        found, length = hashlib.sha256(), 0
        for block in self.read_body():
            found.update(block)
            length += len(block)
        answer = json.dumps({"sha256": found.hexdigest(), "length": length}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_PUT = do_POST

    def read_body(self) -> Iterator[bytes]:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return
        left = int(self.headers.get("Content-Length", 0))
        while left and (block := self.rfile.read(min(left, len(BLOCK)))):
            left -= len(block)
            yield block

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512


if __name__ == "__main__":
    Server((LOOPBACK, int(sys.argv[1])), Handler).serve_forever()
