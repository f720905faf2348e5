"""A git server that asks for a name and password: smart HTTP by git's own http-backend.

git_server.py ROOT serves ROOT/*.git on 127.0.0.2, port 0, and prints the port. What a request carried as credentials is
appended to ROOT/seen. A path that begins with /elsewhere/PORT/ is redirected to the same path on that port.
"""
import base64
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ROOT = sys.argv[1]
EXPECTED = "Basic " + base64.b64encode(b"robot:s3cret/pass").decode()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self):
        given = self.headers.get("Authorization")
        with open(os.path.join(ROOT, "seen"), "a", encoding="utf-8") as seen:
            seen.write(f"{self.path.split('?')[0]} {given}\n")
        if self.path.startswith("/elsewhere/"):
            _, _, port, rest = self.path.split("/", 3)
            self.send_response(302)
            self.send_header("Location", f"http://git.example.test:{port}/{rest}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if given != EXPECTED:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if self.headers.get("Content-Encoding") == "gzip":
            import gzip

            body = gzip.decompress(body)
        environment = dict(
            os.environ,
            GIT_PROJECT_ROOT=ROOT,
            GIT_HTTP_EXPORT_ALL="1",
            PATH_INFO=path,
            QUERY_STRING=query,
            REQUEST_METHOD=self.command,
            CONTENT_TYPE=self.headers.get("Content-Type") or "",
            CONTENT_LENGTH=str(len(body)),
            GIT_PROTOCOL=self.headers.get("Git-Protocol") or "",
            REMOTE_USER="robot",
        )
        done = subprocess.run(["git", "http-backend"], input=body, stdout=subprocess.PIPE, env=environment, check=True)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if line)
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = answer
    do_POST = answer


server = ThreadingHTTPServer(("127.0.0.2", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
