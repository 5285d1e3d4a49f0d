"""Stands for the rest of the world in the tests of programs: example.org, in a network namespace of its own.

Names, pages with and without TLS, files, time and a mirror, at the ports at which programs look for them. It writes
"here" as soon as it runs, waits for a line, which says that its network is there, and writes "ready" when all can be
asked, and later which file it has kept of what it was sent. It ends when its standard input ends.

usage: world.py ADDRESS DIRECTORY      DIRECTORY has www/, and cert.pem and key.pem for example.org
"""

import base64
import functools
import hashlib
import http.server
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time

ADDRESS, DIRECTORY = sys.argv[1:]
SECONDS_FROM_1900_TO_1970 = 2_208_988_800


def name_of(labels):
    """Writes a name as the DNS does (RFC 1035, 3.1)."""
    return b"".join(bytes([len(label)]) + label.encode() for label in labels.split(".")) + b"\0"


# What is known, by name and type (RFC 1035, RFC 3596).
RECORDS = {
    ("example.org", 1): [socket.inet_aton(ADDRESS)],
    ("www.example.org", 1): [socket.inet_aton(ADDRESS)],
    ("time.example.org", 1): [socket.inet_aton(ADDRESS)],
    ("example.org", 15): [struct.pack(">H", 10) + name_of("mail.example.org")],
    ("example.org", 16): [b"\x0btext of it."],
    (".".join(reversed(ADDRESS.split("."))) + ".in-addr.arpa", 12): [name_of("example.org")],
}


def answer_of(query):
    """Answers one DNS query."""
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("ascii", "replace").lower())
        at += query[at] + 1
    kind = struct.unpack(">H", query[at + 1 : at + 3])[0]
    name = ".".join(labels)
    data = RECORDS.get((name, kind), [])
    code = 0 if any(name == known for known, _ in RECORDS) else 3
    head = query[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, len(data), 0, 0)
    records = (b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 60, len(one)) + one for one in data)
    return head + query[12 : at + 5] + b"".join(records)


def time_of(request):
    """Answers one request for the time (RFC 5905, 7.3), as a server of the first stratum."""
    now = time.time() + SECONDS_FROM_1900_TO_1970
    stamp = struct.pack(">II", int(now), int(now % 1 * 2**32))
    version = request[0] & 0x38
    return bytes([version | 4, 1, request[2], 0xEC]) + bytes(8) + b"TEST" + stamp + request[40:48] + stamp + stamp


def datagrams(port, answer):
    """Answers each datagram that comes to a port. What makes no sense gets no answer."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listening.bind((ADDRESS, port))

    def run():
        while True:
            data, peer = listening.recvfrom(65_536)
            try:
                listening.sendto(answer(data), peer)
            except IndexError:
                pass

    threading.Thread(target=run, daemon=True).start()


def echo(connection):
    """Sends each message of a WebSocket back (RFC 6455, 5.2). Those of browsers are short and masked."""
    while True:
        head = connection.rfile.read(2)
        if len(head) < 2 or head[0] & 15 == 8:
            return
        mask = connection.rfile.read(4)
        data = bytes(byte ^ mask[i % 4] for i, byte in enumerate(connection.rfile.read(head[1] & 0x7F)))
        connection.wfile.write(bytes([head[0], len(data)]) + data)


class Page(http.server.SimpleHTTPRequestHandler):
    """Serves files and a WebSocket that says all again, and keeps what a page has to report."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path == "/stolen":
            self.keep("stolen", b"it was reached\n")
        if self.headers.get("Upgrade") != "websocket":
            return super().do_GET()
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self.close_connection = True
        echo(self)

    def do_POST(self):
        self.keep("result", self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()

    def keep(self, name, data):
        """Writes what a test waits for, and says so."""
        path = os.path.join(DIRECTORY, name)
        with open(path, "wb") as file:
            file.write(data)
        print("kept", name, flush=True)


class Pages(http.server.ThreadingHTTPServer):
    """A server that says the end of its TLS sessions, and does not mind who leaves without a word."""

    def shutdown_request(self, request):
        try:
            if isinstance(request, ssl.SSLSocket):
                request.unwrap()
        except OSError:
            pass
        super().shutdown_request(request)

    def handle_error(self, request, client_address):
        pass


def pages(port, context=None):
    """Serves the directory by HTTP."""
    handler = functools.partial(Page, directory=os.path.join(DIRECTORY, "www"))
    server = Pages((ADDRESS, port), handler)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def logins(port):
    """Lets each connection to a port have a server of SSH."""
    listening = socket.create_server((ADDRESS, port))

    def run():
        while True:
            stream, _ = listening.accept()
            command = ["/usr/sbin/sshd", "-i", "-f", os.path.join(DIRECTORY, "sshd.conf")]
            subprocess.Popen(command, stdin=stream, stdout=stream, stderr=subprocess.DEVNULL)
            stream.close()

    threading.Thread(target=run, daemon=True).start()


def main():
    print("here", flush=True)
    sys.stdin.readline()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(os.path.join(DIRECTORY, "cert.pem"), os.path.join(DIRECTORY, "key.pem"))
    pages(80)
    pages(443, context)
    logins(22)
    datagrams(53, answer_of)
    datagrams(123, time_of)
    datagrams(7777, lambda data: data)
    print("ready", flush=True)
    sys.stdin.read()


main()
