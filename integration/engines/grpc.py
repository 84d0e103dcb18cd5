"""gRPC as far as rows need it: a message is a dictionary, a table tells its fields, and curl carries it. What would be
a client's library, Debian does not have for every service that is called here.

A table has a line for each message, of fields as `name=NUMBER:TYPE`. The type is `int`, `map` (of texts) or another
message, and text without one; `*` behind it says that the field is repeated.
"""

import re
import struct
from urllib.parse import unquote

from place import need, write
from table import Command, Failed


class Refused(Failed):
    """The service answered with an error, which is the text."""


def messages(table):
    known = {"map": {"key": (1, "", False), "value": (2, "", False)}}
    for name, *fields in filter(None, map(str.split, table.splitlines())):
        known[name] = {}
        for field in fields:
            field, _, kind = field.partition(":")
            field, _, number = field.partition("=")
            known[name][field] = (int(number.rstrip("*")), kind.rstrip("*"), kind == "map" or "*" in number + kind)
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
