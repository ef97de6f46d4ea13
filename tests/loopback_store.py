"""A web server on this machine that serves a folder as object stores do, and fails as they do."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Store:
    """What the server does, for tests to change and to look at.

    Attributes:
        folder: Folder that is served.
        failures: What becomes of the next requests, in turn: ``503``, ``cut`` (the connection ends in the middle),
            ``drop`` (it ends at once), ``short`` (less than was asked for); served where none is left.
        every: Every so many requests one is cut off, on and on; 0 for never.
        ranges: Whether the server knows ranges; it sends whole files otherwise.
        requests: What was asked for: method, path and range.
    """

    def __init__(self, folder):
        self.folder, self.failures, self.every, self.ranges = Path(folder), [], 0, True
        self.requests, self.url = [], ""


@contextmanager
def served(folder):
    """Serve a folder until the block ends."""
    store = Store(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body):
            wanted = self.headers.get("Range")
            store.requests.append((self.command, self.path, wanted))
            failure = store.failures.pop(0) if store.failures else None
            if store.every and len(store.requests) % store.every == 0:
                failure = "cut"
            if failure == "drop":
                self.close_connection = True
                self.connection.close()
                return
            if failure == "503":
                self.send_error(503)
                return
            path = store.folder / self.path.lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            content, status = path.read_bytes(), 200
            size = len(content)
            if wanted and store.ranges:
                first, last = wanted.removeprefix("bytes=").split("-")
                stop = min(size, int(last) + 1) if last else size
                content, status = content[int(first) : stop], 206
            self.send_response(status)
            if status == 206:
                self.send_header("Content-Range", f"bytes {first}-{stop - 1}/{size}")
            if store.ranges:
                self.send_header("Accept-Ranges", "bytes")
            if failure == "short":
                content = content[: len(content) // 2]
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if not body:
                return
            if failure == "cut":
                self.wfile.write(content[: len(content) // 2])
                self.close_connection = True
                self.connection.close()
                return
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    store.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
