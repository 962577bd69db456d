"""A client that acknowledges what it has not received yet, to look nearer than
it is: its own TCP, over a raw socket.

    optimist.py ADDRESS PORT USER DATABASE [BLOCKS]

Runs as root, in a host whose kernel is kept from resetting the connection that
it knows nothing of.  Waits for each answer before it sends the next query;
only its acknowledgements come too early.  Prints how many queries were
answered.
"""
import random
import socket
import struct
import sys
import time

SYN, RST, PSH, ACK = 2, 4, 8, 16
EARLY = (0.0002, 0.0004, 0.0006, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.01)


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


class Optimist:
    def __init__(self, address, port):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
        self.socket.connect((address, 0))
        self.socket.settimeout(20)
        self.mine = socket.inet_aton(self.socket.getsockname()[0])
        self.theirs, self.port = socket.inet_aton(address), port
        self.local = random.randrange(20000, 30000)
        self.sent, self.received, self.data = random.randrange(1 << 32), 0, b""
        self.segment(SYN)
        self.sent = (self.sent + 1) % (1 << 32)
        flags, seq, _ = self.receive()
        assert flags & SYN, "no SYN came back"
        self.received = (seq + 1) % (1 << 32)
        self.segment(ACK)

    def segment(self, flags, data=b"", ahead=0):
        header = struct.pack("!HHIIBBHHH", self.local, self.port, self.sent, (self.received + ahead) % (1 << 32) if flags & ACK else 0,
                             5 << 4, flags, 65535, 0, 0)
        pseudo = self.mine + self.theirs + struct.pack("!BBH", 0, 6, len(header) + len(data))
        total = checksum(pseudo + header + data)
        self.socket.send(header[:16] + struct.pack("!H", total) + header[18:] + data)

    def receive(self):
        while True:
            packet = self.socket.recv(65535)
            tcp = packet[(packet[0] & 15) * 4:]
            source, target, seq, _, offset, flags = struct.unpack("!HHIIBB", tcp[:14])
            if (source, target) == (self.port, self.local):
                assert not flags & RST, "the server reset the connection"
                return flags, seq, tcp[(offset >> 4) * 4:]

    def exchange(self, request, expected=None):
        """Send, and wait for the answer; acknowledge so many bytes of it
        before they can have come.  Returns how many there were."""
        self.segment(PSH | ACK, request)
        self.sent = (self.sent + len(request)) % (1 << 32)
        before = 0
        for delay in EARLY if expected else ():
            time.sleep(delay - before)
            before = delay
            self.segment(ACK, ahead=expected)
        answer = b""
        while not (answer[-6:-1] == b"Z\0\0\0\5"):
            _, seq, data = self.receive()
            if data and seq == self.received:
                answer += data
                self.received = (self.received + len(data)) % (1 << 32)
                self.segment(ACK)
        return len(answer)


def main(address, port, user, database, blocks="12"):
    client = Optimist(address, int(port))
    body = struct.pack("!I", 196608) + f"user\0{user}\0database\0{database}\0\0".encode()
    client.exchange(struct.pack("!I", len(body) + 4) + body)
    sizes, answered = {}, 0
    for _ in range(int(blocks)):
        for sql in ("BEGIN", "SELECT 1", "SELECT 1", "SELECT 1", "COMMIT"):
            request = b"Q" + struct.pack("!I", len(sql) + 5) + sql.encode() + b"\0"
            sizes[sql] = client.exchange(request, sizes.get(sql))
            answered += 1
    client.segment(PSH | ACK, b"X\0\0\0\4")
    print(answered)


if __name__ == "__main__":
    main(*sys.argv[1:])
