"""What carries the calls of those who have no client in Debian: gRPC by curl, and Kubernetes' streams by a websocket.

A message of gRPC's is a dictionary, and a table tells its fields: after a message's name, each as `name=NUMBER:TYPE`.
The type is `int`, `map` (of texts) or another message, and text without one; `*` behind it says that the field is
repeated.
"""

import json
import re
import socket
import struct
from urllib.parse import unquote, urlsplit

from place import need, write
from table import PATIENCE, Command, Failed, has


class Refused(Failed):
    """The service answered with an error, which is the text."""


def messages(table):
    known = {"map": {"key": (1, "", False), "value": (2, "", False)}}
    for word in table.split():
        if "=" not in word:
            fields = known[word] = {}
            continue
        name, number, kind = re.fullmatch(r"(\w+)=(\d+)(?::(\w+))?\*?", word).groups("")
        fields[name] = (int(number), kind, kind == "map" or word.endswith("*"))
    return known


def encode(known, kind, message):
    out = b""
    for name, value in message.items():
        number, of, repeated = known[kind][name]
        if of == "map":
            value = [{"key": key, "value": each} for key, each in value.items()]
        for each in value if repeated else [value]:
            if of == "int":
                out += varint(number << 3) + varint(each)
                continue
            data = encode(known, of, each) if of else each if isinstance(each, bytes) else each.encode()
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def decode(known, kind, data):
    """Fields that are absent have their zero."""
    if not kind:
        return data.decode(errors="replace")
    fields = {}
    while data:
        key, data = number_before(data)
        value, data = number_before(data) if key & 7 in (0, 2) else (0, data[{1: 8, 5: 4}[key & 7] :])
        if key & 7 == 2:
            value, data = data[:value], data[value:]
        fields.setdefault(key >> 3, []).append(value)
    out = {}
    for name, (number, of, repeated) in known[kind].items():
        found = fields.get(number, [])
        if of == "int":
            out[name] = found[-1] if found else 0
        elif of == "map":
            out[name] = {each["key"]: each["value"] for each in (decode(known, "map", each) for each in found)}
        elif repeated:
            out[name] = [decode(known, of, each) for each in found]
        else:
            out[name] = decode(known, of, found[-1] if found else b"")
    return out


def varint(number):
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out + bytes([number]))


def number_before(data):
    number = 0
    for i, byte in enumerate(data):
        number |= (byte & 127) << 7 * i
        if byte < 128:
            return number, data[i + 1 :]
    raise Failed("a message ends within a number")


class Service:
    """One service on a daemon's socket; its calls leave their bodies in files that begin with `path`."""

    def __init__(self, socket, name, path, known, headers=()):
        need("curl")
        self.name, self.path, self.known = name, path, known
        words = ["--silent", "--show-error", "--http2-prior-knowledge", "--unix-socket", socket]
        for header in ("content-type: application/grpc", "te: trailers", *headers):
            words += ["--header", header]
        self.curl = Command(["curl", *words, "--data-binary", f"@{path}-request", "--output", f"{path}-response"])

    def __call__(self, method, seconds=120, **message):
        body = encode(self.known, f"{method}Request", message)
        with open(f"{self.path}-request", "wb") as file:
            file.write(struct.pack(">BI", 0, len(body)) + body)
        write(f"{self.path}-response", "")
        said = self.curl("--dump-header", "-", f"http://daemon/{self.name}/{method}", seconds=seconds)
        fields = dict(re.findall(r"^(grpc-\w+): (.*?)\r?$", said, re.M))
        if fields.get("grpc-status") != "0":
            raise Refused(f"{method}: {unquote(fields.get('grpc-message', said))}")
        with open(f"{self.path}-response", "rb") as file:
            return decode(self.known, f"{method}Response", file.read()[5:])


class Stream:
    """What `kubectl exec -it` and `attach` have: the channels of Kubernetes' `v4.channel.k8s.io`, over a websocket."""

    STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)

    def __init__(self, url):
        address = urlsplit(url)
        self.socket = socket.create_connection((address.hostname, address.port), timeout=20 * PATIENCE)
        self.text = {self.STDOUT: "", self.STDERR: "", self.ERROR: ""}
        asked = f"""GET {address.path} HTTP/1.1
Host: {address.netloc}
Origin: {url}
Upgrade: websocket
Connection: Upgrade
Sec-WebSocket-Version: 13
Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==
Sec-WebSocket-Protocol: v4.channel.k8s.io

"""
        self.socket.sendall(asked.replace("\n", "\r\n").encode())
        self.file = self.socket.makefile("rb")
        has(self.file.readline().decode(), "101")
        while self.file.readline().strip():
            pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.socket.close()

    def send(self, text, channel=STDIN):
        data = bytes([channel]) + text.encode()
        # One binary frame, masked with nothing.
        self.socket.sendall(bytes([0x82, 0x80 | len(data), 0, 0, 0, 0]) + data)

    def resize(self, rows, columns):
        self.send(json.dumps({"Height": rows, "Width": columns}), self.RESIZE)

    def receive(self):
        """One frame; false at the end."""
        head = self.file.read(2)
        if len(head) < 2 or head[0] & 15 == 8:
            return False
        length = head[1] & 127
        if length > 125:
            length = int.from_bytes(self.file.read(2 if length == 126 else 8), "big")
        data = self.file.read(length)
        if data and data[0] in self.text:
            self.text[data[0]] += data[1:].decode(errors="replace")
        return True

    def expect(self, part):
        """Reads until the program has printed that; what came before is the answer to what was sent."""
        try:
            while part not in self.text[self.STDOUT] and self.receive():
                pass
        except TimeoutError:
            raise Failed(f"the stream does not show {part!r} but {self.text!r}") from None
        has(self.text[self.STDOUT], part)
        self.answer, self.text[self.STDOUT] = self.text[self.STDOUT].split(part, 1)

    def shows(self, text, command):
        """Asks the shell at the other end."""
        self.send(f"{command}; echo as$((1))ked\n")
        self.expect("as1ked")
        has(self.answer, text)

    def ends(self):
        """What is said of the program's end."""
        while self.receive():
            pass
        return json.loads(self.text[self.ERROR])
