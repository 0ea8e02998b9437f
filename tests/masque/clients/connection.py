"""What the cases are written against: a connection to a proxy, its tunnels, and what came of each."""

import argparse
import asyncio
from collections.abc import Callable

from capsules import Capsules, path_of, read_varint, shown, udp_capsule

Head = list[tuple[bytes, bytes]]


class Stream:
    """A request and what came of it."""

    def __init__(self, tunnel: bool) -> None:
        self.tunnel = tunnel
        self.capsules = Capsules()
        self.seen: dict = {"status": None, "headers": {}, "datagrams": [], "capsules": [], "others": []}
        self.seen |= {"body": "", "ended": False, "reset": None, "stop": None}
        self.payloads: list[bytes] = []

    def headers(self, headers: Head) -> None:
        fields = {name.decode(): value.decode() for name, value in headers}
        self.seen["status"] = int(fields.pop(":status", 0)) or self.seen["status"]
        self.seen["headers"] |= fields

    def datagram(self, data: bytes, where: str) -> None:
        context = read_varint(data)
        if context and context[0] == 0:
            self.payloads.append(context[1])
            self.seen[where].append(shown(context[1]))
        else:
            self.seen["others"].append(f"{where}: {shown(data)}")

    def data(self, data: bytes) -> None:
        if not (self.tunnel and str(self.seen["status"]).startswith("2")):
            self.seen["body"] += data.decode(errors="replace")
            return
        for kind, value in self.capsules.feed(data):
            if kind == 0:
                self.datagram(value, "capsules")
            else:
                self.seen["others"].append(f"capsule {kind}: {shown(value)}")

    def over(self) -> bool:
        return self.seen["ended"] or self.seen["reset"] is not None


class Connection:
    """A connection. Those of HTTP/3 and HTTP/2 add how requests and data go out, and tell `changed` what has come."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.streams: dict[int, Stream] = {}
        # How it was closed, if it was.
        self.closed: dict | None = None
        self.changed = asyncio.Event()
        # Whether the proxy has said GOAWAY without an error.
        self.going_away = False
        # What was found out about the proxy or through the tunnel, for the report.
        self.found: dict = {}

    # What each version of HTTP does its own way.

    def request(self, head: Head, tunnel: bool = True, end: bool = False) -> int:
        raise NotImplementedError

    def data(self, id: int, data: bytes, end: bool = False) -> None:
        """A DATA frame on a stream."""
        raise NotImplementedError

    def datagram(self, id: int, payload: bytes, context: int = 0) -> None:
        """A payload as this version carries it: a QUIC datagram, or a capsule where there are none."""
        raise NotImplementedError

    def reset(self, id: int) -> None:
        raise NotImplementedError

    # What is the same.

    def fields(self, **fields: str | None) -> Head:
        return [(b":" + name.encode(), value.encode()) for name, value in fields.items() if value is not None]

    def head(self, **changes: str | None) -> Head:
        """The header section of a request for a tunnel; changes by name without the colon, None leaves a field out."""
        o = self.options
        fields = {"method": "CONNECT", "protocol": "connect-udp", "scheme": "https", "authority": o.authority}
        fields |= {"path": path_of(o.target_host, o.target_port, o.template)} | changes
        more = [tuple(part.encode() for part in field.split("=", 1)) for field in o.header]
        return self.fields(**fields) + [(b"capsule-protocol", b"?1")] + more

    def get(self, method: str, path: str) -> Head:
        """The header section of a request as of a browser."""
        return self.fields(method=method, scheme="https", authority=self.options.authority, path=path)

    async def until(self, condition: Callable[[], bool], seconds: float | None = None) -> bool:
        """Waits until this is so, the connection is closed, or the time is over."""
        try:
            async with asyncio.timeout(self.options.timeout if seconds is None else seconds):
                while not (condition() or self.closed):
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            pass
        return condition()

    async def tunnel(self) -> int:
        """An open tunnel, or at least the answer."""
        id = self.request(self.head())
        await self.answer(id)
        return id

    async def answer(self, id: int) -> None:
        stream = self.streams[id]
        await self.until(lambda: stream.seen["status"] is not None or stream.over())

    async def replies(self, id: int, count: int) -> bool:
        stream = self.streams[id]
        return await self.until(lambda: len(stream.payloads) >= count or stream.over())

    async def end_of(self, id: int, seconds: float | None = None) -> None:
        """The end of a stream from the other side, or of the connection."""
        stream = self.streams[id]
        await self.until(lambda: stream.over() or stream.seen["stop"] is not None, seconds)
        # What else comes with it.
        await asyncio.sleep(0.1)

    async def still_echoes(self) -> bool:
        """Whether a tunnel on this connection carries a payload; what it was is not reported."""
        if self.closed:
            return False
        id = await self.tunnel()
        if self.streams[id].seen["status"] == 200:
            self.data(id, udp_capsule(b"still here"))
            await self.replies(id, 1)
        return b"still here" in self.streams.pop(id).payloads
