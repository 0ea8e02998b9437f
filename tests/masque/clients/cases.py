"""The cases: what is sent. Each is given an open connection, and leaves its trace in the streams.

What must come of them stands in the Rust tests. Most are the same over HTTP/3 and HTTP/2; those of HTTP/3 alone say so.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from capsules import capsule, noise, path_of, udp, udp_capsule, varint
from http3 import Inner

# Settings of HTTP/3 (RFC 9297 section 2.1.1, RFC 9220 section 3).
H3_DATAGRAM = 0x33
ENABLE_CONNECT_PROTOCOL = 0x8

HTTP3 = "h3"

CASES: dict[str, Callable] = {}
# What a case wants: the only version of HTTP, settings of ours and whether there are QUIC datagrams; and whether
# another tunnel is tried afterwards.
WANTS: dict[str, dict] = {}


def case(only: str | None = None, after: bool = True, **opening):
    def add(function: Callable) -> Callable:
        CASES[function.__name__] = function
        WANTS[function.__name__] = {"only": only, "after": after, "opening": opening}
        return function

    return add


@case()
async def echo(c: Any) -> None:
    """Each payload in a QUIC datagram, and the answers to all."""
    id = await c.tunnel()
    for payload in c.options.payloads:
        c.datagram(id, payload)
    await c.replies(id, len(c.options.payloads))


@case()
async def echo_capsules(c: Any) -> None:
    """Each payload in a capsule."""
    id = await c.tunnel()
    for payload in c.options.payloads:
        c.data(id, udp_capsule(payload))
    await c.replies(id, len(c.options.payloads))


@case(HTTP3)
async def echo_both(c: Any) -> None:
    """In turn in a capsule and in a QUIC datagram."""
    id = await c.tunnel()
    for turn, payload in enumerate(c.options.payloads):
        c.data(id, udp_capsule(payload)) if turn % 2 == 0 else c.datagram(id, payload)
        await c.replies(id, turn + 1)


@case()
async def early(c: Any) -> None:
    """Payloads right behind the request, before the answer: in a capsule and in a QUIC datagram."""
    id = c.request(c.head())
    c.data(id, udp_capsule(b"early capsule"))
    c.datagram(id, b"early datagram")
    await c.replies(id, 2)


@case()
async def capsules_in_pieces(c: Any) -> None:
    """A capsule of each payload, each byte of it in a DATA frame and a packet of its own."""
    id = await c.tunnel()
    for payload in c.options.payloads:
        for byte in udp_capsule(payload):
            c.data(id, bytes([byte]))
            await asyncio.sleep(0.001)
    await c.replies(id, len(c.options.payloads))


@case()
async def capsules_in_one(c: Any) -> None:
    """The capsules of all payloads in one DATA frame."""
    id = await c.tunnel()
    c.data(id, b"".join(udp_capsule(payload) for payload in c.options.payloads))
    await c.replies(id, len(c.options.payloads))


@case()
async def capsules_unknown(c: Any) -> None:
    """Capsules of reserved and unknown types, one of them long, before each payload in a capsule."""
    id = await c.tunnel()
    for turn, payload in enumerate(c.options.payloads):
        c.data(id, capsule(0x29 * (turn + 3) + 0x17, b"grease") + capsule(0x12345, noise(100_000)))
        c.data(id, capsule((1 << 62) - 1, b"") + udp_capsule(payload))
    await c.replies(id, len(c.options.payloads))


@case()
async def capsule_long_varints(c: Any) -> None:
    """A capsule whose type, length and context are longer than they have to be."""
    id = await c.tunnel()
    wide = lambda value: (value | 3 << 62).to_bytes(8, "big")
    for payload in c.options.payloads:
        c.data(id, wide(0) + wide(8 + len(payload)) + wide(0) + payload)
    await c.replies(id, len(c.options.payloads))


@case()
async def capsule_truncated(c: Any) -> None:
    """FIN in the middle of a capsule's value."""
    id = await c.tunnel()
    c.data(id, udp_capsule(noise(100))[:50], end=True)
    await c.end_of(id)


@case()
async def capsule_head_truncated(c: Any) -> None:
    """FIN after a capsule's type."""
    id = await c.tunnel()
    c.data(id, varint(0), end=True)
    await c.end_of(id)


@case()
async def capsule_too_long(c: Any) -> None:
    """A capsule with a UDP payload of 65528 bytes, one more than there can be."""
    id = await c.tunnel()
    c.data(id, udp_capsule(noise(65_528)))
    await c.end_of(id)


@case()
async def capsule_endless(c: Any) -> None:
    """The head of a capsule of 2^61 bytes for this protocol, and a megabyte of it."""
    id = await c.tunnel()
    c.data(id, varint(0) + varint(1 << 61) + varint(0))
    for _ in range(64):
        if c.closed or c.streams[id].over():
            break
        c.data(id, noise(16_384))
        await asyncio.sleep(0.005)
    await c.end_of(id)


@case()
async def capsule_without_context(c: Any) -> None:
    """A DATAGRAM capsule with nothing in it: no context id."""
    id = await c.tunnel()
    c.data(id, capsule(0, b""))
    await c.end_of(id)


@case()
async def contexts_unknown(c: Any) -> None:
    """Payloads in contexts that nobody registered, before each payload: in QUIC datagrams and in capsules."""
    id = await c.tunnel()
    for payload in c.options.payloads:
        for context in 1, 2, 64, (1 << 62) - 1:
            c.datagram(id, b"of no context", context)
            c.data(id, udp_capsule(b"of no context", context))
        c.datagram(id, payload)
    await c.replies(id, len(c.options.payloads))
    await asyncio.sleep(0.2)


@case(HTTP3)
async def datagram_empty(c: Any) -> None:
    """A QUIC datagram with nothing in it."""
    id = await c.tunnel()
    c.quic_datagram(b"")
    await c.end_of(id)


@case(HTTP3)
async def datagram_unparsable(c: Any) -> None:
    """A QUIC datagram that ends within the quarter stream id."""
    id = await c.tunnel()
    c.quic_datagram(b"\xc0\0")
    await c.end_of(id)


@case(HTTP3)
async def datagram_id_too_large(c: Any) -> None:
    """A QUIC datagram for quarter stream id 2^60, which no stream can have."""
    id = await c.tunnel()
    c.quic_datagram(varint(1 << 60) + udp(b"x"))
    await c.end_of(id)


@case(HTTP3)
async def datagram_id_beyond_limit(c: Any) -> None:
    """A QUIC datagram for a stream beyond what the proxy allows us to open."""
    id = await c.tunnel()
    c.quic_datagram(varint(1 << 40) + udp(b"x"))
    await closed(c)


@case(HTTP3)
async def datagram_of_no_stream(c: Any) -> None:
    """A QUIC datagram for a stream that is not open yet, and one for the tunnel after it."""
    id = await c.tunnel()
    c.quic_datagram(varint(id // 4 + 3) + udp(b"x"))
    c.datagram(id, b"after it")
    await c.replies(id, 1)


@case()
async def datagram_of_closed_stream(c: Any) -> None:
    """QUIC datagrams for a tunnel that has ended, and one for another."""
    first = await c.tunnel()
    c.data(first, b"", end=True)
    await c.end_of(first)
    second = await c.tunnel()
    for _ in range(5):
        c.datagram(first, b"too late")
    c.datagram(second, b"after it")
    await c.replies(second, 1)


@case(HTTP3)
async def datagram_without_context(c: Any) -> None:
    """A QUIC datagram with a stream id and nothing after it."""
    id = await c.tunnel()
    c.quic_datagram(varint(id // 4))
    await c.end_of(id)


@case(HTTP3)
async def datagram_on_get(c: Any) -> None:
    """A QUIC datagram for the stream of a GET that is not finished."""
    id = c.request(c.get("GET", "/"), tunnel=False)
    c.datagram(id, b"x")
    await c.end_of(id)


async def closed(c: Any) -> None:
    """The end of the connection, or that it does not come in time."""
    await c.until(lambda: False)


@case(HTTP3, settings={H3_DATAGRAM: 2}, after=False)
async def settings_datagram_2(c: Any) -> None:
    """SETTINGS_H3_DATAGRAM = 2."""
    await closed(c)


@case(HTTP3, settings={ENABLE_CONNECT_PROTOCOL: 2}, after=False)
async def settings_connect_2(c: Any) -> None:
    """SETTINGS_ENABLE_CONNECT_PROTOCOL = 2. It means nothing from a client, but its values are those."""
    await closed(c)


@case(HTTP3, settings={H3_DATAGRAM: 0})
async def settings_datagram_0(c: Any) -> None:
    """SETTINGS_H3_DATAGRAM = 0: payloads in capsules, which must come back so."""
    await echo_capsules(c)


@case(HTTP3, settings={H3_DATAGRAM: None})
async def settings_no_datagram(c: Any) -> None:
    """No SETTINGS_H3_DATAGRAM: payloads in capsules."""
    await echo_capsules(c)


@case(HTTP3, settings={H3_DATAGRAM: None})
async def settings_no_datagram_but_datagrams(c: Any) -> None:
    """No SETTINGS_H3_DATAGRAM, and QUIC datagrams all the same."""
    await echo(c)


@case(HTTP3, settings={H3_DATAGRAM: 1}, datagrams=False)
async def no_quic_datagrams(c: Any) -> None:
    """SETTINGS_H3_DATAGRAM = 1 without the transport parameter: payloads in capsules."""
    await echo_capsules(c)


@case(HTTP3, settings={H3_DATAGRAM: None}, datagrams=False)
async def no_datagrams_at_all(c: Any) -> None:
    """Neither the setting nor the transport parameter: payloads in capsules."""
    await echo_capsules(c)


@case(HTTP3, after=False)
async def settings_twice(c: Any) -> None:
    """A second SETTINGS frame."""
    c.control(4, b"")
    await closed(c)


@case()
async def fin(c: Any) -> None:
    """A payload, then FIN after a whole capsule."""
    id = await c.tunnel()
    c.data(id, udp_capsule(b"last"))
    await c.replies(id, 1)
    c.data(id, b"", end=True)
    await c.end_of(id)


@case()
async def reset(c: Any) -> None:
    """A payload, then RESET_STREAM."""
    id = await c.tunnel()
    c.datagram(id, b"last")
    await c.replies(id, 1)
    c.reset(id)
    await c.end_of(id)


@case(after=False)
async def shut_down(c: Any) -> None:
    """A payload; after the proxy has said GOAWAY another one, then FIN. `goaway` is whether it was said.

    Over HTTP/2 the connection is closed then: hyper-h2 takes GOAWAY for its end."""
    id = await c.tunnel()
    c.datagram(id, b"before")
    await c.replies(id, 1)
    c.found["goaway"] = await c.until(lambda: c.going_away)
    if c.options.over != HTTP3:
        return
    c.datagram(id, b"after")
    await c.replies(id, 2)
    c.data(id, b"", end=True)
    await c.until(c.streams[id].over)
    await closed(c)


@case(HTTP3)
async def stop(c: Any) -> None:
    """A payload, then STOP_SENDING."""
    id = await c.tunnel()
    c.datagram(id, b"last")
    await c.replies(id, 1)
    c.stop(id)
    await c.end_of(id)


@case(HTTP3, after=False)
async def trailers(c: Any) -> None:
    """HEADERS on a stream that is a tunnel."""
    id = await c.tunnel()
    c.frame(id, 1, bytes.fromhex("0000217801") + b"y")  # x: y, a literal (RFC 9204 section 4.5.6)
    await c.end_of(id)


@case(HTTP3)
async def unknown_frame(c: Any) -> None:
    """A frame of a reserved type on a stream that is a tunnel, before each payload in a capsule."""
    id = await c.tunnel()
    for payload in c.options.payloads:
        c.frame(id, 0x1F * 7 + 0x21, b"grease")
        c.data(id, udp_capsule(payload))
    await c.replies(id, len(c.options.payloads))


@case()
async def many(c: Any) -> None:
    """--count tunnels at the same time, with a payload each."""
    ids = [c.request(c.head()) for _ in range(c.options.count)]
    for id in ids:
        await c.answer(id)
        c.data(id, udp_capsule(str(id).encode()))
    for id in ids:
        await c.replies(id, 1)


@case()
async def one_after_the_other(c: Any) -> None:
    """--count tunnels, each ended before the next is asked for."""
    for _ in range(c.options.count):
        id = await c.tunnel()
        c.datagram(id, b"x")
        await c.replies(id, 1)
        c.data(id, b"", end=True)
        await c.until(c.streams[id].over)


@case(HTTP3, after=False)
async def quic(c: Any) -> None:
    """QUIC in the tunnel: GET --path of the target over HTTP/3."""
    id = await c.tunnel()
    if c.streams[id].seen["status"] == 200:
        inner = Inner(c, id)
        c.found["fetched"] = await inner.fetch(f"{c.options.target_host}:{c.options.target_port}", c.options.path)


def refused(name: str, says: str, *, add: list | None = None, first: list | None = None, **changes) -> None:
    """A case that is one request for a tunnel, altered; then whatever comes of it."""

    async def ask(c: Any) -> None:
        id = c.request((first or []) + c.head(**changes) + (add or []))
        await c.answer(id)
        await asyncio.sleep(0.1)

    ask.__doc__, ask.__name__ = says, name
    case()(ask)


def plain(name: str, says: str, method: str, path: str, body: bytes = b"") -> None:
    """A case that is a request as of a browser."""

    async def ask(c: Any) -> None:
        id = c.request(c.get(method, path), tunnel=False, end=not body)
        if body:
            c.data(id, body, end=True)
        await c.until(c.streams[id].over)

    ask.__doc__, ask.__name__ = says, name
    case(after=False)(ask)


plain("get_root", "GET /", "GET", "/")
plain("get_healthz", "GET /healthz", "GET", "/healthz")
plain("get_nothing", "GET /nothing/here", "GET", "/nothing/here")
plain("head_root", "HEAD /", "HEAD", "/")
plain("post_root", "POST / with a body", "POST", "/", b"body")
plain("get_template", "GET of the template, without :protocol", "GET", path_of("127.0.0.1", 9))

refused("protocol_unknown", ":protocol nobody-knows-this", protocol="nobody-knows-this")
refused("protocol_websocket", ":protocol websocket", protocol="websocket")
refused("protocol_none", "CONNECT without :protocol", protocol=None, scheme=None, path=None)
refused("protocol_on_get", ":protocol with GET", method="GET")
refused("scheme_none", "no :scheme", scheme=None)
refused("scheme_http", ":scheme http", scheme="http")
refused("path_none", "no :path", path=None)
refused("path_empty", ":path empty", path="")
refused("path_other", ":path of no template", path="/somewhere/else/")
refused("authority_none", "no :authority", authority=None)
refused("authority_other", ":authority of another", authority="other.example:443")
refused("port_0", "port 0", path=path_of("127.0.0.1", 0))
refused("port_65536", "port 65536", path=path_of("127.0.0.1", 65536))
refused("port_empty", "no port", path=path_of("127.0.0.1", ""))
refused("port_words", "port http", path=path_of("127.0.0.1", "http"))
refused("port_signed", "port +53", path=path_of("127.0.0.1", "+53"))
refused("host_empty", "no host", path=path_of("", 53))
refused("host_zone", "an IPv6 host with a zone", path=path_of("fe80::1%lo", 53))
refused("host_brackets", "an IPv6 host in brackets", path=path_of("[::1]", 53))
refused("host_raw_ipv6", "an IPv6 host whose colons are not encoded", path=path_of("X", 53).replace("X", "::1"))
refused("host_nul", "a host with a zero in it", path=path_of("a\0b", 53))
refused("host_slash", "a host with an encoded slash", path=path_of("a/b", 53))
refused("host_twice", "a host encoded twice", path=path_of("127%2E0.0.1", 53))
refused("host_unknown", "a host that is not in DNS", path=path_of("nowhere.invalid", 53))
refused("percent_short", "a percent sign and one digit", path=path_of("X", 53).replace("X", "127.0.0.1%3"))
refused("percent_words", "a percent sign and no digits", path=path_of("X", 53).replace("X", "127.0.0.%zz"))
refused("percent_utf8", "percent-encoded bytes that are no UTF-8", path=path_of("X", 53).replace("X", "%ff%fe"))
refused("content_length", "content-length: 5", add=[(b"content-length", b"5")])
refused("content_type", "content-type", add=[(b"content-type", b"text/plain")])
refused("capsule_protocol_no", "capsule-protocol: ?0 as well", add=[(b"capsule-protocol", b"?0")])
refused("method_twice", ":method twice", first=[(b":method", b"GET")])
refused("path_twice", ":path twice", first=[(b":path", b"/")])
refused("pseudo_late", "a pseudo-header after a field", first=[(b"x", b"y")])
refused("pseudo_unknown", "an unknown pseudo-header", first=[(b":nonsense", b"y")])
refused("pseudo_status", ":status in a request", first=[(b":status", b"200")])
refused("field_connection", "connection: close", add=[(b"connection", b"close")])
refused("field_transfer_encoding", "transfer-encoding: chunked", add=[(b"transfer-encoding", b"chunked")])
refused("field_upgrade", "upgrade: connect-udp", add=[(b"upgrade", b"connect-udp")])
refused("field_upper_case", "a field name in upper case", add=[(b"X-Upper", b"y")])
refused("field_newline", "a newline in a value", add=[(b"x", b"a\r\nb: c")])
refused("fields_long", "fields of 200,000 bytes", add=[(b"x-%d" % i, b"y" * 4_000) for i in range(50)])
refused("fields_many", "5,000 fields", add=[(b"x-%d" % i, b"y") for i in range(5_000)])
refused("host_also", "host as of another, next to :authority", add=[(b"host", b"other.example")])
