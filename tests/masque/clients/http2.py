"""HTTP/2 over TLS with hyper-h2. There are no QUIC datagrams here: all payloads go in capsules."""

import argparse
import asyncio
import socket
import ssl

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import ProtocolError

from capsules import udp_capsule
from connection import Connection, Head, Stream

# GOAWAY of a server that lets requests end: no stream is excluded, no error (RFC 9113 section 6.8).
GOAWAY = bytes.fromhex("000008 07 00 00000000 7fffffff 00000000")


class Http2(Connection):
    """A connection to the proxy."""

    def __init__(
        self, options: argparse.Namespace, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        super().__init__(options)
        self.reader, self.writer = reader, writer
        # What is wrong with the headers is for the proxy to find.
        loose = {"validate_outbound_headers": False, "normalize_outbound_headers": False}
        self.http = H2Connection(H2Configuration(client_side=True, header_encoding=None, **loose))
        # What waits for room in the windows: data and whether it is the last, by stream.
        self.waiting: dict[int, tuple[bytes, bool]] = {}

    @classmethod
    async def open(cls, o: argparse.Namespace) -> "Http2":
        """Opens one and waits for the proxy's settings."""
        tls = ssl.create_default_context(cafile=o.ca)
        if not o.ca:
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        tls.set_alpn_protocols(["h2"])
        host, port = o.proxy.rsplit(":", 1)
        try:
            async with asyncio.timeout(o.timeout):
                streams = await asyncio.open_connection(
                    host.strip("[]"), int(port), ssl=tls, server_hostname=o.name
                )
        except (OSError, TimeoutError) as error:
            client = cls(o, None, None)
            client.closed = {"by": "us", "code": None, "reason": repr(error)}
            return client
        client = cls(o, *streams)
        streams[1].get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.http.initiate_connection()
        client.flush()
        client.reading = asyncio.create_task(client.read())
        await client.until(lambda: "settings" in client.found)
        return client

    def end(self) -> None:
        if self.writer:
            self.reading.cancel()
            self.writer.close()

    # What comes.

    async def read(self) -> None:
        try:
            while data := await self.reader.read(65_536):
                # hyper-h2 takes this for the end, and then the PING that comes with it for an error.
                self.going_away |= GOAWAY in data
                for event in self.http.receive_data(data):
                    self.take(event)
                self.push()
                self.changed.set()
            self.closed = self.closed or {"by": "peer", "code": None, "reason": "end of TCP"}
        except (OSError, ProtocolError) as error:
            self.closed = self.closed or {"by": "us", "code": None, "reason": repr(error)}
        self.changed.set()

    def take(self, event) -> None:
        if isinstance(event, ConnectionTerminated):
            said = (event.additional_data or b"").decode(errors="replace")
            self.closed = {"by": "peer", "code": int(event.error_code), "reason": said}
        if isinstance(event, RemoteSettingsChanged):
            changed = {int(code): change.new_value for code, change in event.changed_settings.items()}
            self.found["settings"] = self.found.get("settings", {}) | changed
        stream = self.streams.get(getattr(event, "stream_id", None))
        if isinstance(event, DataReceived):
            self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if stream:
                stream.data(event.data)
        elif stream and isinstance(event, ResponseReceived):
            stream.headers(event.headers)
        elif stream and isinstance(event, StreamEnded):
            stream.seen["ended"] = True
        elif stream and isinstance(event, StreamReset):
            stream.seen["reset"] = int(event.error_code)

    # What goes.

    def flush(self) -> None:
        if self.writer and not self.writer.is_closing():
            self.writer.write(self.http.data_to_send())

    def push(self) -> None:
        """Sends what the windows have room for."""
        for id in list(self.waiting):
            data, end = self.waiting.pop(id)
            try:
                while data or end:
                    room = min(self.http.local_flow_control_window(id), self.http.max_outbound_frame_size)
                    if data and not room:
                        self.waiting[id] = data, end
                        break
                    piece, data = data[:room], data[room:]
                    last = end and not data
                    self.http.send_data(id, piece, end_stream=last)
                    end = end and not last
            except ProtocolError:
                # It is closed, and so is recorded.
                continue
        self.flush()

    def request(self, head: Head, tunnel: bool = True, end: bool = False) -> int:
        id = self.http.get_next_available_stream_id()
        self.streams[id] = Stream(tunnel)
        self.http.send_headers(id, head, end_stream=end)
        self.flush()
        return id

    def data(self, id: int, data: bytes, end: bool = False) -> None:
        before, _ = self.waiting.get(id, (b"", False))
        self.waiting[id] = before + data, end
        self.push()

    def datagram(self, id: int, payload: bytes, context: int = 0) -> None:
        self.data(id, udp_capsule(payload, context))

    def reset(self, id: int) -> None:
        self.http.reset_stream(id, ErrorCodes.CANCEL)
        self.flush()
