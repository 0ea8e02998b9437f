"""HTTP/3 with aioquic, and QUIC in a tunnel."""

import argparse
import asyncio
import socket
import ssl

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, FrameType, H3Connection, Setting, encode_frame
from aioquic.h3.events import DataReceived, DatagramReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, StopSendingReceived, StreamReset

from capsules import udp, varint
from connection import Connection, Head, Stream

H3_REQUEST_CANCELLED = 0x10C


class Http(H3Connection):
    """With the settings that a case wants."""

    def __init__(self, quic: QuicConnection, settings: dict[int, int]) -> None:
        self.wanted = settings
        self.going_away = False
        super().__init__(quic)

    def _check_control_frame_type(self, frame_type: int) -> None:
        super()._check_control_frame_type(frame_type)
        self.going_away |= frame_type == FrameType.GOAWAY

    def _get_local_settings(self) -> dict[int, int]:
        return super()._get_local_settings() | self.wanted


class Http3(Connection, QuicConnectionProtocol):
    """A connection to the proxy."""

    def __init__(self, quic: QuicConnection, options: argparse.Namespace, settings: dict[int, int]) -> None:
        Connection.__init__(self, options)
        QuicConnectionProtocol.__init__(self, quic)
        self.http = Http(quic, settings)
        self.inner: Inner | None = None

    @classmethod
    async def open(
        cls, o: argparse.Namespace, settings: dict[int, int | None] | None = None, datagrams: bool = True
    ) -> "Http3":
        """Opens one and waits for the proxy's settings. `settings` are ours besides the usual; None leaves one out."""
        configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=o.name)
        if o.ca:
            configuration.load_verify_locations(o.ca)
        else:
            configuration.verify_mode = ssl.CERT_NONE
        configuration.max_datagram_size = o.mtu
        configuration.max_datagram_frame_size = 65_536 if datagrams else None
        ours = {int(Setting.H3_DATAGRAM): 1} | (settings or {})
        ours = {key: value for key, value in ours.items() if value is not None}
        host, port = o.proxy.rsplit(":", 1)
        family, *_, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
        here = ("::1" if family == socket.AF_INET6 else "127.0.0.1", 0)
        _, client = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: cls(QuicConnection(configuration=configuration), o, ours), local_addr=here
        )
        client.connect(address)
        try:
            async with asyncio.timeout(o.timeout):
                await client.wait_connected()
        except (ConnectionError, TimeoutError) as error:
            client.closed = client.closed or {"by": "us", "code": None, "reason": repr(error)}
        await client.until(lambda: client.http.received_settings is not None)
        client.found["settings"] = client.http.received_settings
        client.found["max_datagram"] = client._quic._remote_max_datagram_frame_size
        return client

    def end(self) -> None:
        if not self.closed:
            self.close(0x100)
        self._transport.close()

    # What comes.

    def quic_event_received(self, event) -> None:
        if isinstance(event, ConnectionTerminated):
            by = "us" if self.http._is_done else "peer"
            self.closed = {"by": by, "code": event.error_code, "reason": event.reason_phrase}
        stream = self.streams.get(getattr(event, "stream_id", None))
        if stream and isinstance(event, StreamReset):
            stream.seen["reset"] = event.error_code
        if stream and isinstance(event, StopSendingReceived):
            stream.seen["stop"] = event.error_code
        for event in self.http.handle_event(event):
            stream = self.streams.get(event.stream_id)
            if stream is None:
                continue
            if isinstance(event, HeadersReceived):
                stream.headers(event.headers)
            elif isinstance(event, DataReceived):
                stream.data(event.data)
            elif isinstance(event, DatagramReceived):
                stream.datagram(event.data, "datagrams")
            if getattr(event, "stream_ended", False):
                stream.seen["ended"] = True
            if self.inner and stream is self.inner.stream:
                self.inner.receive()
        self.going_away = self.http.going_away
        self.changed.set()

    # What goes.

    def request(self, head: Head, tunnel: bool = True, end: bool = False) -> int:
        id = self._quic.get_next_available_stream_id()
        self.streams[id] = Stream(tunnel)
        self.http.send_headers(id, head, end)
        self.transmit()
        return id

    def raw(self, id: int, bytes: bytes, end: bool = False) -> None:
        self._quic.send_stream_data(id, bytes, end)
        self.transmit()

    def data(self, id: int, data: bytes, end: bool = False) -> None:
        self.raw(id, encode_frame(FrameType.DATA, data) if data else b"", end)

    def frame(self, id: int, kind: int, data: bytes) -> None:
        """A frame of any type."""
        self.raw(id, encode_frame(kind, data))

    def control(self, kind: int, data: bytes) -> None:
        """A frame on our control stream."""
        self.frame(self.http._local_control_stream_id, kind, data)

    def quic_datagram(self, data: bytes) -> None:
        """A QUIC DATAGRAM frame."""
        self._quic.send_datagram_frame(data)
        self.transmit()

    def datagram(self, id: int, payload: bytes, context: int = 0) -> None:
        self.quic_datagram(varint(id // 4) + udp(payload, context))

    def reset(self, id: int) -> None:
        self._quic.reset_stream(id, H3_REQUEST_CANCELLED)
        self.transmit()

    def stop(self, id: int) -> None:
        self._quic.stop_stream(id, H3_REQUEST_CANCELLED)
        self.transmit()


class Inner:
    """QUIC in a tunnel: an HTTP/3 client whose packets are the tunnel's payloads."""

    def __init__(self, outer: Http3, id: int) -> None:
        self.outer, self.id, self.stream = outer, id, outer.streams[id]
        configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name="localhost")
        configuration.verify_mode = ssl.CERT_NONE
        self.quic = QuicConnection(configuration=configuration)
        self.http = H3Connection(self.quic)
        self.address = ("tunnel", 0)
        self.now = asyncio.get_running_loop().time
        # How many of the tunnel's payloads were read.
        self.read = 0
        self.found = {"status": None, "body": 0, "ended": False, "packets": 0, "largest": 0, "closed": None}
        outer.inner = self

    async def fetch(self, authority: str, path: str) -> dict:
        """GET, and how much came: `body` in bytes, `largest` of the packets that came."""
        self.quic.connect(self.address, self.now())
        head = {":method": "GET", ":scheme": "https", ":authority": authority, ":path": path}
        id = self.quic.get_next_available_stream_id()
        self.http.send_headers(id, [(k.encode(), v.encode()) for k, v in head.items()], True)
        self.step()
        end = self.now() + self.outer.options.timeout
        while not (self.over() or self.outer.closed) and self.now() < end:
            timer = self.quic.get_timer() or end
            await self.outer.until(self.over, max(0.0, min(timer, end) - self.now()))
            if self.now() >= timer:
                self.quic.handle_timer(self.now())
            self.step()
        return self.found

    def over(self) -> bool:
        return self.found["ended"] or self.found["closed"] is not None

    def receive(self) -> None:
        """Takes what came through the tunnel."""
        new, self.read = self.stream.payloads[self.read :], len(self.stream.payloads)
        for payload in new:
            self.found["packets"] += 1
            self.found["largest"] = max(self.found["largest"], len(payload))
            self.quic.receive_datagram(payload, self.address, self.now())
        self.step()

    def step(self) -> None:
        while event := self.quic.next_event():
            if isinstance(event, ConnectionTerminated):
                self.found["closed"] = event.reason_phrase or str(event.error_code)
            for event in self.http.handle_event(event):
                if isinstance(event, HeadersReceived):
                    self.found["status"] = int(dict(event.headers)[b":status"])
                elif isinstance(event, DataReceived):
                    self.found["body"] += len(event.data)
                self.found["ended"] |= getattr(event, "stream_ended", False)
        for packet, _ in self.quic.datagrams_to_send(self.now()):
            self.outer.datagram(self.id, packet)
