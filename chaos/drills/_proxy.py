"""A bare nginx as many run it: its own defaults, gzip switched on for every type, one `proxy_pass`."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from tests.support.cluster import GUARD_S, free_port, until
from tests.support.nginx import program

_CONF = """
worker_processes 1;
pid nginx.pid;
daemon off;
error_log stderr alert;
{user}
events {{}}
http {{
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  gzip on;
  gzip_types *;
  gzip_proxied any;
  gzip_min_length 0;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass {node};
    }}
  }}
}}
"""


@contextmanager
def bare_proxy(node: str) -> Iterator[str]:
    """The URL of a proxy in front of the node of this URL. Among the defaults: buffering, and 60 s to read."""
    with tempfile.TemporaryDirectory(prefix="tailrace-drill-") as folder:
        port = free_port()
        user = "user root root;" if os.geteuid() == 0 else ""
        conf = Path(folder, "nginx.conf")
        conf.write_text(_CONF.format(port=port, node=node, user=user))
        url = f"http://127.0.0.1:{port}"
        with subprocess.Popen([program("nginx"), "-e", "stderr", "-p", folder, "-c", str(conf)]) as process:
            try:
                until(lambda: _answers(url))
                yield url
            finally:
                process.terminate()
                process.wait(GUARD_S)


def _answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/healthz").status_code == 200
    except httpx2.RequestError:
        return False
