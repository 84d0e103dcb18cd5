#!/usr/bin/python3
"""A seccomp agent: agent.py SOCKET ERRNO

Takes listeners at SOCKET, prints each message that comes with one, and answers every notification
with ERRNO after printing the number and the first arguments of the call. One JSON object a line.
"""

import fcntl
import json
import socket
import struct
import sys
import threading

RECEIVE = 0xC0502100
SEND = 0xC0182101
NOTIFICATION = struct.Struct("=QIIiIQ6Q")
ANSWER = struct.Struct("=QqiI")


def say(what):
    print(json.dumps(what), flush=True)


def serve(listener, errno):
    while True:
        buffer = bytearray(NOTIFICATION.size)
        try:
            fcntl.ioctl(listener, RECEIVE, buffer)
            cookie, _, _, number, _, _, *arguments = NOTIFICATION.unpack(buffer)
            say({"call": number, "arguments": arguments[:2]})
            fcntl.ioctl(listener, SEND, ANSWER.pack(cookie, 0, -errno, 0))
        except OSError:
            return  # nobody is under the filter any more


path, errno = sys.argv[1], int(sys.argv[2])
with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
    door.bind(path)
    door.listen()
    while True:
        connection, _ = door.accept()
        with connection:
            message, descriptors, _, _ = socket.recv_fds(connection, 65536, 8)
        say({"message": json.loads(message), "descriptors": len(descriptors)})
        threading.Thread(target=serve, args=(descriptors[0], errno), daemon=True).start()
