"""The proxies that are compared, each with what an API gateway does for a request: a route by host and path, a limit
by client address that is counted and never reached, forwarding fields, metrics that can be scraped. One worker each.
"""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from certificates import make_certificate
from processes import NEVER_DENIES, Address, Process, Weir, free_address, url, weir_binary

HOST = "api.example"
PATH = "/api"
SMALL_BYTES, LARGE_BYTES = 128, 1 << 20
# Enough for every connection of the load generator: none of the three opens connections in the course of a run.
IDLE_UPSTREAM_CONNECTIONS = 512

UPSTREAM = """
daemon off; pid {directory}/nginx.pid; error_log stderr crit; worker_processes 1;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; keepalive_timeout 1h;
  {temporary}
  server {{
    listen {address};
    location {path}/small {{ return 200 "{small}"; }}
    location {path}/large {{ alias {directory}/large; }}
  }}
}}
"""

NGINX = """
daemon off; pid {directory}/nginx.pid; error_log stderr crit; worker_processes 1;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 1h;
  {temporary}
  # Beyond the slots of the zone; `burst` takes what a rate per millisecond would deny.
  limit_req_zone $binary_remote_addr zone=clients:10m rate=2000000r/s;
  upstream app {{ server {upstream}; keepalive {idle}; keepalive_requests 1000000000; }}
  server {{
    listen {plain};
    listen {tls} ssl http2;
    ssl_certificate {directory}/server.pem; ssl_certificate_key {directory}/server.pem; ssl_protocols TLSv1.3;
    server_name {host};
    location {path}/ {{
      limit_req zone=clients burst=1000000 nodelay;
      proxy_pass http://app; proxy_http_version 1.1;
      # Memory only: a spare disk would be measured otherwise.
      proxy_max_temp_file_size 0;
      proxy_set_header Connection ""; proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Request-Id $request_id;
      add_header X-Request-Id $request_id; add_header Via "1.1 nginx";
    }}
    location / {{ return 404; }}
  }}
  server {{ listen {admin}; location / {{ stub_status; }} }}
}}
"""

HAPROXY = """
global
  nbthread 1
  maxconn 4096
  tune.ssl.default-dh-param 2048
  ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout http-keep-alive 1h
  option forwardfor
  http-reuse always
frontend clients
  bind {plain}
  bind {tls} ssl crt {directory}/server.pem alpn h2,http/1.1
  unique-id-format %[uuid()]
  unique-id-header X-Request-Id
  http-request track-sc0 src table limits
  http-request deny deny_status 429 if {{ sc0_http_req_rate(limits) gt 1000000000 }}
  http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}
  http-response set-header Via "1.1 haproxy"
  http-response set-header X-Request-Id %[unique-id]
  acl api_host hdr(host) -i {host}
  acl api_path path_beg {path}/
  use_backend app if api_host api_path
  default_backend nowhere
backend limits
  stick-table type ip size 1m expire 1m store http_req_rate(60s)
backend app
  server one {upstream} pool-max-conn {idle} pool-purge-delay 1h
backend nowhere
  http-request deny deny_status 404
frontend admin
  bind {admin}
  http-request use-service prometheus-exporter
"""

# nginx keeps bodies that it gathers in files: somewhere that this process may write.
TEMPORARY = " ".join(
    f"{kind}_temp_path {{directory}}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)


@dataclass
class Contestant:
    """A running proxy."""

    name: str
    version: str
    process: Process
    plain: Address
    tls: Address | None


def text_of(address: Address) -> str:
    return "{}:{}".format(*address)


def scratch() -> Path:
    """A directory for one process until this program ends, in memory where there is such a file system."""
    memory = Path("/dev/shm")
    directory = Path(tempfile.mkdtemp(prefix="weir-bench.", dir=memory if memory.is_dir() else None))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    # The workers of nginx are of another user.
    directory.chmod(0o755)
    return directory


def version_of(*command: str) -> str:
    outcome = subprocess.run(command, capture_output=True, text=True, check=True)
    return (outcome.stdout + outcome.stderr).splitlines()[0].strip()


def start_upstream(cpu: int) -> tuple[Process, Address]:
    """nginx with a fixed answer and a file: what all contestants have behind them."""
    directory, address = scratch(), free_address()
    (directory / "large").write_bytes(bytes(LARGE_BYTES))
    config = directory / "nginx.conf"
    config.write_text(
        UPSTREAM.format(
            directory=directory,
            temporary=TEMPORARY.format(directory=directory),
            address=text_of(address),
            path=PATH,
            small="x" * SMALL_BYTES,
        )
    )
    process = Process("upstream", ["/usr/sbin/nginx", "-c", config], cpu=cpu)
    process.await_listening(address)
    return process, address


def start_nginx(upstream: Address, cpu: int) -> Contestant:
    return start_configured("nginx", NGINX, ["/usr/sbin/nginx", "-c"], ["/usr/sbin/nginx", "-v"], upstream, cpu)


def start_haproxy(upstream: Address, cpu: int) -> Contestant:
    return start_configured("HAProxy", HAPROXY, ["/usr/sbin/haproxy", "-f"], ["/usr/sbin/haproxy", "-v"], upstream, cpu)


def start_configured(
    name: str, template: str, command: list[str], version: list[str], upstream: Address, cpu: int
) -> Contestant:
    directory = scratch()
    make_certificate(directory, HOST)
    plain, tls, admin = free_address(), free_address(), free_address()
    config = directory / "proxy.conf"
    config.write_text(
        template.format(
            directory=directory,
            temporary=TEMPORARY.format(directory=directory),
            upstream=text_of(upstream),
            plain=text_of(plain),
            tls=text_of(tls),
            admin=text_of(admin),
            host=HOST,
            path=PATH,
            idle=IDLE_UPSTREAM_CONNECTIONS,
        )
    )
    process = Process(name, [*command, config], cpu=cpu)
    process.await_listening(plain)
    return Contestant(name, version_of(*version), process, plain, tls)


def start_weir(upstream: Address, cpu: int) -> Contestant:
    directory = scratch()
    certificate = make_certificate(directory, HOST)
    plain, tls = free_address(), free_address()
    weir = Weir(
        {
            "listen": [text_of(plain), certificate.listener(tls)],
            "rules": [{"name": "per-client", "by": "ip", "windows": [NEVER_DENIES], "mode": "gossip"}],
            "upstreams": [{"name": "app", "targets": [url(upstream)], "idle_connections": IDLE_UPSTREAM_CONNECTIONS}],
            "routes": [{"name": "api", "hosts": [HOST], "path_prefix": PATH, "upstream": "app"}],
            "proxy": {"workers": 1},
        },
        cpu=cpu,
    )
    return Contestant("Weir", version_of(str(weir_binary()), "--version"), weir, plain, tls)


STARTERS: dict[str, Callable[[Address, int], Contestant]] = {
    "weir": start_weir,
    "nginx": start_nginx,
    "haproxy": start_haproxy,
}
