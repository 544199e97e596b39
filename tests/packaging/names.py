"""A name server for a network without one: every name under .test has the address 127.0.0.1, all others do not exist.

Runs until it is killed; prints a line per question.
"""

import socket
import struct


def answer(question):
    """The response to one query with one question; `None` if it is not one."""
    if len(question) < 17 or struct.unpack_from("!H", question, 4)[0] != 1:
        return None
    labels, at = [], 12
    while question[at]:
        labels.append(question[at + 1:at + 1 + question[at]].decode("latin-1"))
        at += 1 + question[at]
    kind = struct.unpack_from("!H", question, at + 1)[0]
    is_known = labels[-1:] == ["test"]
    print(".".join(labels), kind, flush=True)
    address = is_known and kind == 1
    header = question[:2] + struct.pack("!HHHHH", 0x8180 if is_known else 0x8183, 1, int(address), 0, 0)
    record = struct.pack("!HHHIH4B", 0xC00C, 1, 1, 60, 4, 127, 0, 0, 1) if address else b""
    return header + question[12:at + 5] + record


def main():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    print("ready", flush=True)
    while True:
        question, client = server.recvfrom(512)
        response = answer(question)
        if response:
            server.sendto(response, client)


if __name__ == "__main__":
    main()
