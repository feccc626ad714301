"""nginx with a constant answer: the floor of what an HTTP answer costs on this machine."""

import re
import shutil
from pathlib import Path
from typing import Final

from bench.errors import BenchError
from stack.packages import find
from stack.ports import LOOPBACK

_UNSAFE: Final = re.compile(r"[^ -~]|['\\$]")


def config(folder: Path, port: int, content_type: str, body: str) -> str:
    """Return the configuration of one worker that answers every order alike.

    A body that would need quoting is replaced by one of the same length.
    """
    text = "x" * len(body.encode()) if _UNSAFE.search(body) else body
    temp = "\n".join(
        f"    {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{
    worker_connections 4096;
}}
http {{
    access_log off;
    keepalive_timeout 75s;
    keepalive_requests 1000000000;
    server_tokens off;
    tcp_nodelay on;
{temp}
    server {{
        listen {LOOPBACK}:{port} backlog=4096;
        location / {{
            default_type {content_type};
            return 200 '{text}';
        }}
    }}
}}
"""


def prepare(folder: Path, port: int, content_type: str, body: str) -> tuple[str, ...]:
    """Write the configuration into a fresh folder; returns the command line.

    Raises:
        BenchError: nginx is not installed.
    """
    program = find("nginx")
    if program is None:
        raise BenchError(
            "nginx: it is not installed; run: apt-get install -y nginx-light, or leave it out: --without nginx"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o711, parents=True)
    path = folder / "nginx.conf"
    path.write_text(config(folder, port, content_type, body), encoding="utf-8")
    return (program, "-e", str(folder / "error.log"), "-p", str(folder), "-c", str(path))
