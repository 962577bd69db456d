"""A PostgreSQL client of the v3 protocol on asyncio, for what libpq cannot do:
many at once, from chosen addresses, that stop at any byte.  It knows no
password, and no TLS."""
import asyncio
import struct

PROTOCOL = 196608


class Failed(Exception):
    """The server's ErrorResponse, its fields in a dictionary."""

    def __init__(self, fields):
        super().__init__(fields.get("M"))
        self.fields = fields


def startup(user, database):
    body = struct.pack("!i", PROTOCOL)
    body += b"".join(f"{word}\0".encode() for word in ("user", user, "database", database)) + b"\0"
    return struct.pack("!i", len(body) + 4) + body


def message(kind, body=b""):
    return kind.encode() + struct.pack("!i", len(body) + 4) + body


def query(sql):
    return message("Q", sql.encode() + b"\0")


class Connection:
    """Counts its exchanges: what it sent and got the whole answer of."""

    def __init__(self, reader, writer):
        self.reader, self.writer, self.exchanges, self.transactions = reader, writer, 0, 0

    @classmethod
    async def open(cls, port, local_addr=None, host="127.0.0.1", user="postgres", database="postgres"):
        self = cls(*await asyncio.open_connection(host, port, local_addr=local_addr and (local_addr, 0)))
        self.writer.write(startup(user, database))
        await self.answer()
        return self

    async def receive(self):
        kind, length = struct.unpack("!ci", await self.reader.readexactly(5))
        return kind.decode(), await self.reader.readexactly(length - 4)

    async def answer(self):
        """Everything up to ReadyForQuery: its rows, as lists of text."""
        rows, failed = [], None
        while True:
            kind, body = await self.receive()
            if kind == "R" and body[:4] != b"\0\0\0\0":
                self.writer.write(message("p", b"wrong\0"))  # whatever it asks for
            elif kind == "D":
                rows.append(columns(body))
            elif kind == "E":
                failed = Failed({field[:1].decode(): field[1:].decode() for field in body.split(b"\0") if field})
                if failed.fields["S"] == "FATAL":
                    raise failed
            elif kind == "Z":
                if failed:
                    raise failed
                self.status = body.decode()
                return rows

    async def query(self, sql):
        self.writer.write(query(sql))
        try:
            return await self.answer()
        finally:
            self.exchanges += 1
            self.transactions += getattr(self, "status", "I") == "I"

    async def close(self, farewell=True):
        if farewell:
            self.writer.write(message("X"))
            await self.writer.drain()
        else:
            self.writer.transport.abort()
        self.writer.close()


def columns(body):
    n, = struct.unpack_from("!h", body)
    at, values = 2, []
    for _ in range(n):
        length, = struct.unpack_from("!i", body, at)
        at += 4
        values.append(None if length < 0 else body[at:at + length].decode())
        at += max(length, 0)
    return values
