"""As much of the Kafka protocol as the tests need, by hand: what they send must be able to be wrong."""
import socket, struct


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


TABLE = []
for n in range(256):
    for _ in range(8):
        n = (n >> 1) ^ 0x82F63B78 if n & 1 else n >> 1
    TABLE.append(n)


def varint(n):
    n = (n << 1) ^ (n >> 63)
    out = b""
    while n > 0x7F:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


def batch(values, timestamp_ms=1_760_000_000_000):
    """A record batch of format 2 without compression, keys and producer."""
    records = b""
    for i, value in enumerate(values):
        body = b"\0" + varint(0) + varint(i) + varint(-1) + varint(len(value)) + value + varint(0)
        records += varint(len(body)) + body
    last = len(values) - 1
    checked = struct.pack(">hiqqqhii", 0, last, timestamp_ms, timestamp_ms, -1, -1, -1, len(values)) + records
    return struct.pack(">qiibI", 0, len(checked) + 9, -1, 2, crc32c(checked)) + checked


def string(text):
    return struct.pack(">h", len(text)) + text.encode()


def frame(key, version, body, correlation=1):
    request = struct.pack(">hhih", key, version, correlation, -1) + body
    return struct.pack(">i", len(request)) + request


def produce_body(topic, records, partition=0, acks=-1):
    return (struct.pack(">hhii", -1, acks, 30_000, 1) + string(topic) + struct.pack(">iii", 1, partition, len(records)) + records)


class Closed(Exception):
    """The broker closed the connection."""


class Client:
    """One connection. Every wait has an end."""

    def __init__(self, address, timeout=20, receive_buffer=None):
        host, port = address.rsplit(":", 1)
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        self.socket.connect((host, int(port)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def exactly(self, count):
        data = b""
        while len(data) < count:
            try:
                more = self.socket.recv(min(count - len(data), 1 << 20))
            except ConnectionError:
                raise Closed
            if not more:
                raise Closed
            data += more
        return data

    def answer(self):
        length = struct.unpack(">i", self.exactly(4))[0]
        return self.exactly(length)[4:]

    def call(self, key, version, body):
        self.send(frame(key, version, body))
        return self.answer()

    def is_closed(self):
        """Waits for the broker to close; False if it does not before the timeout or says something instead."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    # -- the requests --

    def api_versions(self):
        return struct.unpack(">h", self.call(18, 0, b"")[:2])[0]

    def create(self, topic, partitions=1, **settings):
        pairs = b"".join(string(k.replace("_", ".")) + string(str(v)) for k, v in settings.items())
        body = (struct.pack(">i", 1) + string(topic) + struct.pack(">ihii", partitions, 1, 0, len(settings)) + pairs
                + struct.pack(">ib", 20_000, 0))
        answer = self.call(19, 2, body)
        return struct.unpack(">h", answer[8 + 2 + len(topic):][:2])[0]

    def topic_exists(self, topic):
        """By ListOffsets, which makes no topic."""
        answer = self.call(2, 1, struct.pack(">ii", -1, 1) + string(topic) + struct.pack(">iiq", 1, 0, -1))
        return struct.unpack(">h", answer[4 + 2 + len(topic) + 4 + 4:][:2])[0] == 0

    def refusal(self, topic, records):
        """(error code, message) of Produce version 8."""
        answer = self.call(0, 8, produce_body(topic, records))
        at = 4 + 2 + len(topic) + 4
        _index, code, _base, _time, _start, errors = struct.unpack(">ihqqqi", answer[at:at + 34])
        assert errors == 0
        length = struct.unpack(">h", answer[at + 34:at + 36])[0]
        return code, answer[at + 36:at + 36 + length].decode() if length >= 0 else ""

    def produce(self, topic, records, partition=0, acks=-1):
        """(error code, base offset) of Produce version 3."""
        answer = self.call(0, 3, produce_body(topic, records, partition, acks))
        at = 4 + 2 + len(topic) + 4
        _index, code, base = struct.unpack(">ihq", answer[at:at + 14])
        return code, base

    def bound(self, topic, timestamp, partition=0):
        """ListOffsets version 1: -2 is the log's start, -1 its end."""
        answer = self.call(2, 1, struct.pack(">ii", -1, 1) + string(topic) + struct.pack(">iiq", 1, partition, timestamp))
        at = 4 + 2 + len(topic) + 4
        _index, code, _time, offset = struct.unpack(">ihqq", answer[at:at + 22])
        assert code == 0, f"ListOffsets: {code}"
        return offset

    def fetch_request(self, topic, offset, most=8 << 20, wait_ms=500):
        return (struct.pack(">iiiib", -1, wait_ms, 1, most, 0) + struct.pack(">i", 1) + string(topic)
                + struct.pack(">iiqi", 1, 0, offset, most))

    def fetch(self, topic, offset, **more):
        """(error code, high watermark, record batches) of Fetch version 4."""
        answer = self.call(1, 4, self.fetch_request(topic, offset, **more))
        at = 4 + 4 + 2 + len(topic) + 4
        _index, code, high, _stable, aborted = struct.unpack(">ihqqi", answer[at:at + 26])
        at += 26 + max(aborted, 0) * 16
        length = struct.unpack(">i", answer[at:at + 4])[0]
        return code, high, answer[at + 4:at + 4 + length]

    def values(self, topic):
        """Every value in partition 0, with its offset; the CRC of each batch is checked."""
        out, next_offset, end = {}, self.bound(topic, -2), self.bound(topic, -1)
        while next_offset < end:
            code, _high, data = self.fetch(topic, next_offset)
            assert code == 0 and data, f"fetch at {next_offset}: error {code}, {len(data)} bytes"
            for offset, value in records(data):
                if offset >= next_offset:
                    out[offset] = value
            next_offset = max(out) + 1
        return out


def records(data):
    at = 0
    while at + 61 <= len(data):
        base, length = struct.unpack(">qi", data[at:at + 12])
        one = data[at:at + 12 + length]
        if len(one) < 12 + length:
            return
        assert crc32c(one[21:]) == struct.unpack(">I", one[17:21])[0], f"CRC of the batch at {base}"
        count = struct.unpack(">i", one[57:61])[0]
        here = 61
        for _ in range(count):
            record_bytes, here = unsigned(one, here)
            end = here + record_bytes
            _time, after = unsigned(one, here + 1)
            delta, after = unsigned(one, after)
            key, after = unsigned(one, after)
            size, after = unsigned(one, after + max(key, 0))
            yield base + delta, one[after:after + size]
            here = end
        at += 12 + length


def unsigned(data, at):
    """A zigzag varint, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
