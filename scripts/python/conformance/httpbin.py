"""httpbin behind the gateway, exercised with curl over HTTP/1.0, 1.1, h2 with prior knowledge, and h2 over TLS.

The oracle is httpbin itself: asked directly, it says what status, fields and body the gateway has to pass on.
httplint then judges every response, and may find nothing that it does not find in httpbin's own.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from certificates import make_certificate
from processes import LOOPBACK, Address, Process, Weir, free_address, gateway_config, python_module, stopped_after, url

from .curl import Response, Way, fetch, http1, http2, http2_over_tls, http10
from .report import Report
from .upstream import blocks, digest

MIB = 1 << 20
# `Accept: */*` and the like are curl's own; this one tells that lists arrive whole.
ACCEPT = ["-H", "Accept: text/html;q=0.5, application/json", "-H", "X-Two: one", "-H", "X-Two: two"]


def json_at(*path: str) -> Callable[[Response], object]:
    """A value in a JSON body."""

    def read(response: Response) -> object:
        value = json.loads(response.body)
        for key in path:
            value = value[key]
        return value

    return read


def field_of(name: str) -> Callable[[Response], object]:
    return lambda response: response.value(name)


@dataclass
class Case:
    """A request, the status it must have, and what else must be true of the response."""

    path: str
    status: int = 200
    args: list[str] = field(default_factory=list)
    expect: dict[str, tuple[Callable[[Response], object], object]] = field(default_factory=dict)
    same_body: bool = True
    """Whether httpbin answers two such requests with the same bytes."""
    stdin: bytes | None = None
    reuses: bool = False
    """Sends a second request on the connection: curl 7.88 then speaks HTTP/1.1 to a server with prior knowledge."""
    name: str = ""

    def title(self) -> str:
        method = self.args[self.args.index("-X") + 1] if "-X" in self.args else "GET"
        return self.name or f"{method} {self.path}"


FORM = ["-X", "POST", "--data-urlencode", "name=a b&c", "--data-urlencode", "euro=€"]
JSON = ["-H", "Content-Type: application/json", "--data-binary", '{"a": [1, 2, {"b": null}]}']

CASES = [
    # Methods, and what the upstream receives.
    Case("/get?a=1&a=2&b=%20%2B&c", expect={"repeated arguments": (json_at("args", "a"), ["1", "2"])}, same_body=False),
    Case("/headers", args=["-H", "Host: app.example"], expect={
        "Host": (json_at("headers", "Host"), "app.example"),
    }, same_body=False),
    Case("/headers", args=ACCEPT, name="GET /headers with lists", expect={
        "Accept": (json_at("headers", "Accept"), "text/html;q=0.5, application/json"),
        "X-Two": (json_at("headers", "X-Two"), "one,two"),
    }, same_body=False),
    Case("/user-agent", args=["-A", "probe/1.0 (a; b)"], expect={"agent": (json_at("user-agent"), "probe/1.0 (a; b)")}),
    Case("/post", args=FORM, expect={
        "form": (json_at("form"), {"name": "a b&c", "euro": "€"}),
    }, same_body=False),
    Case("/post", args=["-X", "POST", *JSON], name="POST /post of JSON", expect={
        "json": (json_at("json"), {"a": [1, 2, {"b": None}]}),
    }, same_body=False),
    Case("/post", args=["-X", "POST", "-F", "file=@-;filename=f.bin"], stdin=b"\0\r\n--x" * 1000,
         name="POST /post of a file", expect={"its type": (json_at("form"), {})}, same_body=False),
    Case("/put", args=["-X", "PUT", *JSON], expect={"data": (json_at("data"), JSON[-1])}, same_body=False),
    Case("/patch", args=["-X", "PATCH", *JSON], expect={"data": (json_at("data"), JSON[-1])}, same_body=False),
    Case("/delete", args=["-X", "DELETE"], same_body=False),
    Case("/get", args=["--head"], name="HEAD /get", expect={"no body": (lambda r: r.body, b"")}, same_body=False),
    Case("/get", args=["-X", "OPTIONS"], expect={"no body": (lambda r: r.body, b"")}),
    Case("/post", 405, name="GET /post"),
    # Paths and queries.
    Case("/anything/a%20b/%E2%82%AC?x=%26%3D&y=%20", expect={
        "arguments": (json_at("args"), {"x": "&=", "y": " "}),
    }, same_body=False),
    Case("/base64/d2Vpcg%3D%3D", expect={"body": (lambda r: r.body, b"weir")}),
    Case("/anything?" + "q=" + "x" * 4000, name="a query of 4,000 bytes", expect={
        "length": (lambda r: len(json_at("args", "q")(r)), 4000),  # type: ignore[arg-type]
    }, same_body=False),
    # Status codes, with and without a body.
    *(Case(f"/status/{code}", code) for code in (200, 201, 202, 203, 204, 205, 206, 300, 304, 400, 401, 402, 403, 404)),
    *(Case(f"/status/{code}", code) for code in (405, 406, 409, 410, 418, 422, 429, 451, 500, 501, 502, 503, 504, 599)),
    # Content codings are the end points' affair: the bytes stay as they are.
    Case("/gzip", expect={"coding": (field_of("content-encoding"), "gzip")}, same_body=False),
    Case("/deflate", expect={"coding": (field_of("content-encoding"), "deflate")}, same_body=False),
    Case("/brotli", expect={"coding": (field_of("content-encoding"), "br")}, same_body=False),
    Case("/encoding/utf8"),
    Case("/html"), Case("/xml"), Case("/json"), Case("/robots.txt"), Case("/deny"), Case("/links/5/2"),
    Case("/image/png"), Case("/image/jpeg"), Case("/image/webp"), Case("/image/svg"),
    Case("/image", args=["-H", "Accept: image/webp"], name="GET /image by Accept", expect={
        "type": (field_of("content-type"), "image/webp"),
    }),
    # Bodies without a length.
    Case("/stream/20", expect={"lines": (lambda r: r.body.count(b"\n"), 20)}, same_body=False),
    Case("/stream-bytes/50000?seed=7&chunk_size=777", expect={"length": (lambda r: len(r.body), 50000)}),
    Case("/bytes/100000?seed=7", expect={"length": (lambda r: len(r.body), 100000)}),
    Case("/drip?numbytes=20&duration=1&delay=0", expect={"body": (lambda r: r.body, b"*" * 20)}),
    Case("/delay/1", same_body=False),
    # Ranges (RFC 9110 §14) and conditions (§13).
    Case("/range/26", expect={"body": (lambda r: r.body, b"abcdefghijklmnopqrstuvwxyz")}),
    Case("/range/1000", 206, ["-H", "Range: bytes=10-19"], {
        "range": (field_of("content-range"), "bytes 10-19/1000"),
        "body": (lambda r: r.body, b"klmnopqrst"),
    }, name="a range"),
    Case("/range/1000", 206, ["-H", "Range: bytes=990-"], name="a range to the end"),
    Case("/range/1000", 206, ["-H", "Range: bytes=-10"], name="a suffix range"),
    Case("/range/1000", 416, ["-H", "Range: bytes=2000-3000"], name="a range beyond the end"),
    Case("/etag/abc", expect={"ETag": (field_of("etag"), "abc")}, same_body=False),
    Case("/etag/abc", 304, ["-H", "If-None-Match: abc"], name="If-None-Match"),
    Case("/etag/abc", 412, ["-H", "If-Match: xyz"], name="If-Match"),
    Case("/cache", 304, ["-H", "If-Modified-Since: Sat, 01 Jan 2028 00:00:00 GMT"], name="If-Modified-Since"),
    Case("/cache/60", expect={"Cache-Control": (field_of("cache-control"), "public, max-age=60")}, same_body=False),
    # Redirects are passed on, not followed.
    Case("/redirect/2", 302, expect={"Location": (field_of("location"), "/relative-redirect/1")}),
    Case("/relative-redirect/1", 302, expect={"Location": (field_of("location"), "/get")}),
    Case("/redirect-to?url=http%3A%2F%2Fexample.com%2F&status_code=308", 308, expect={
        "Location": (field_of("location"), "http://example.com/"),
    }),
    Case("/redirect/3", args=["--location"], name="redirects followed by the client", same_body=False,
         reuses=True),
    # Cookies: a Set-Cookie field each (RFC 6265 §3).
    Case("/cookies/set?a=1&b=2&c=3", 302, expect={
        "cookies": (lambda r: sorted(c.partition(";")[0] for c in r.values("set-cookie")), ["a=1", "b=2", "c=3"]),
    }),
    Case("/cookies", args=["-H", "Cookie: a=1; b=2"], expect={"cookies": (json_at("cookies"), {"a": "1", "b": "2"})}),
    Case("/cookies/delete?a", 302, args=["-H", "Cookie: a=1"]),
    # Credentials are the upstream's affair.
    Case("/basic-auth/user/secret", args=["-u", "user:secret"]),
    Case("/basic-auth/user/secret", 401, name="no credentials", expect={
        "challenge": (field_of("www-authenticate"), 'Basic realm="Fake Realm"'),
    }),
    Case("/hidden-basic-auth/user/secret", 404),
    Case("/digest-auth/auth/user/secret", args=["--digest", "-u", "user:secret"], name="digest", same_body=False,
         reuses=True),
    Case("/bearer", args=["-H", "Authorization: Bearer t"]),
    # Fields of the upstream's choice.
    Case("/response-headers?X-One=1&X-Two=a&X-Two=b&Server=own", expect={
        "X-One": (field_of("x-one"), "1"),
        "X-Two": (lambda r: r.values("x-two"), ["a", "b"]),
    }, same_body=False),
]  # fmt: skip


def start_httpbin(address: Address) -> Process:
    options = [
        "--bind",
        "{}:{}".format(*address),
        "--threads",
        "8",
        "--worker-tmp-dir",
        "/dev/shm",
        "--log-level",
        "warning",
    ]
    return python_module("gunicorn", *options, "--keep-alive", "30", "httpbin:app", name="httpbin")


def run(report: Report, *, quick: bool) -> None:
    httpbin, large = free_address(), free_address()
    servers = start_httpbin(httpbin), python_module("conformance.upstream", str(large[1]), name="upstream")
    with stopped_after(*servers):
        for server, address in zip(servers, (httpbin, large), strict=True):
            server.await_listening(address)
        config = gateway_config(httpbin)
        config["upstreams"].append({"name": "large", "targets": [url(large)]})
        routes = [{"name": "large", "path_prefix": "/large", "strip_prefix": True, "upstream": "large"}]
        config["routes"] = routes + config["routes"]
        with tempfile.TemporaryDirectory(prefix="conformance.") as directory:
            certificate = make_certificate(Path(directory), "localhost")
            config["listen"] = [f"{LOOPBACK}:0", certificate.listener()]
            with Weir(config) as weir:
                secure = http2_over_tls(url(weir.addresses[1], "https"), certificate.cert)
                ways = [http1(weir.url), http10(weir.url), http2(weir.url), secure]
                judge_all(report, http1(url(httpbin)), ways)
                for way in ways:
                    hop_by_hop(report, way)
                    large_bodies(report, way, weir, 4 * MIB if quick else 64 * MIB)
                    refusals(report, way)


def judge_all(report: Report, direct: Way, ways: list[Way]) -> None:
    """Every case, in every way."""
    for case in CASES:
        # What a server says of itself depends on how its client came to the gateway.
        wanted = {
            scheme: fetch(direct, case.path, [*case.args, "-H", f"X-Forwarded-Proto: {scheme}"], case.stdin)
            for scheme in ("http", "https")
        }
        for way in ways:
            if not (case.reuses and way.name == "h2"):
                judge(report, case, way, wanted[way.base.partition(":")[0]])


def judge(report: Report, case: Case, way: Way, direct: Response) -> None:
    """One request: all that is wrong with its response."""
    title = f"{way.name}: {case.title()}"
    try:
        response = fetch(way, case.path, case.args, case.stdin)
    except RuntimeError as error:
        report.check(title, False, str(error))
        return
    faults = []
    if not response.version.startswith(way.version):
        faults.append(f"it is of {response.version}")
    if way.name == "HTTP/1.0" and response.values("transfer-encoding"):
        faults.append("it has a transfer coding (RFC 9112 §6.1)")
    if (response.status, direct.status) != (case.status, case.status):
        faults.append(f"status {response.status}, of httpbin {direct.status}")
    if not case.expect and case.same_body and response.body != direct.body:
        faults.append(f"a body of {len(response.body)} bytes is not httpbin's of {len(direct.body)}")
    if case.same_body and response.end_to_end() != direct.end_to_end():
        differing = set(response.end_to_end()) ^ set(direct.end_to_end())
        faults.append(f"fields differ: {sorted(differing)}")
    for name, (read, wanted) in case.expect.items():
        try:
            found = read(response)
        except (KeyError, ValueError) as error:
            found = error
        if found != wanted:
            faults.append(f"{name} is {found!r}, not {wanted!r}")
    faults += sorted(lint(response, case) - lint(direct, case))
    report.check(title, not faults, "; ".join(faults))


def lint(response: Response, case: Case) -> set[str]:
    """What httplint calls bad in a response."""
    from httplint import HttpResponseLinter
    from httplint.note import levels

    linter = HttpResponseLinter(no_content="--head" in case.args)
    linter.process_response_topline(b"HTTP/1.1", str(response.status).encode(), b"")
    linter.process_headers([(name.encode(), value.encode("latin-1")) for name, value in response.fields])
    linter.feed_content(response.body)
    linter.finish_content(True)
    return {f"httplint: {note.summary}" for note in linter.notes if note.level == levels.BAD}


def hop_by_hop(report: Report, way: Way) -> None:
    """What belongs to one connection goes no further (RFC 9110 §7.6.1); what a client claims to be is not believed."""
    claims = ["-H", "X-Forwarded-For: 203.0.113.9", "-H", "Forwarded: for=203.0.113.9", "-H", "X-Real-IP: 203.0.113.9"]
    args = [*claims, "-H", "Proxy: http://evil.example", "-H", "Proxy-Authorization: Basic eDp5"]
    if way.version == "HTTP/1.1":
        args += ["-H", "Connection: keep-alive, X-Nominated", "-H", "X-Nominated: 1", "-H", "Keep-Alive: timeout=5"]
    received = json.loads(fetch(way, "/headers?show_env=1", args).body)["headers"]
    gone = {"X-Nominated", "Keep-Alive", "Proxy", "Te", "Proxy-Connection"}
    report.equal(f"{way.name}: fields of one connection go no further", sorted(gone & set(received)), [])
    forged = sorted(name for name, value in received.items() if "203.0.113.9" in value)
    report.equal(f"{way.name}: forged client addresses go no further", forged, [])
    report.equal(f"{way.name}: the upstream learns the client's address", received.get("X-Forwarded-For"), "127.0.0.1")


def large_bodies(report: Report, way: Way, weir: Weir, length: int) -> None:
    """Bodies arrive whole in both directions, with and without a length, and are not gathered in memory."""
    before = weir.resident_bytes()
    body = b"".join(blocks(length))
    wanted = {"sha256": hashlib.sha256(body).hexdigest(), "length": length}
    for name, args in (("with a length", []), ("chunked", ["-H", "Transfer-Encoding: chunked"])):
        if name == "chunked" and way.version != "HTTP/1.1":
            continue
        args = ["-X", "POST", "--data-binary", "@-", "-H", "Content-Type: application/octet-stream", *args]
        response = fetch(way, "/large/", args, body)
        report.equal(f"{way.name}: an upload {name} of {length} bytes arrives whole", json.loads(response.body), wanted)
    for path in ("bytes", "chunked"):
        response = fetch(way, f"/large/{path}/{length}")
        found = digest([response.body])
        report.equal(f"{way.name}: a download ({path}) of {length} bytes arrives whole", found, wanted["sha256"])
    grown = (weir.resident_bytes() - before) / MIB
    report.check(f"{way.name}: large bodies are not gathered in memory", grown < 16, f"{grown:+.1f} MiB")


def refusals(report: Report, way: Way) -> None:
    """What a gateway has no use for (RFC 9110 §9.3.6, §9.3.8), and what it cannot do (§10.1.1)."""
    response = fetch(way, "/anything", ["-X", "TRACE"])
    report.equal(f"{way.name}: TRACE is refused", response.status, 405)
    response = fetch(way, "/post", ["-H", "Expect: 100-continue", "--data-binary", "x=1"])
    report.equal(f"{way.name}: Expect: 100-continue is answered", response.status, 200)
    if way.name == "HTTP/1.0":
        # Which knows no expectations.
        return
    response = fetch(way, "/post", ["-H", "Expect: foo", "--data-binary", "x=1"])
    report.equal(f"{way.name}: an unknown expectation is refused", response.status, 417)
