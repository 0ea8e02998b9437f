"""A client for CONNECT-UDP (RFC 9298) that none of us wrote the protocols of: aioquic, hyper-h2.

    client.py --over h3|h2 --ca FILE [OPTION...] PROXY_HOST:PORT TARGET_HOST TARGET_PORT CASE...

For each case it opens a connection and prints a line of JSON that says what came of it:

    settings       what the proxy has set, by number
    max_datagram   its transport parameter max_datagram_frame_size, or null
    streams        each in the order of opening: status, headers, ended (FIN), reset and stop (error codes), body (of
                   what is no tunnel), and the UDP payloads that came: `datagrams` in QUIC DATAGRAM frames, `capsules`
                   on the stream; `others` are other contexts and capsules
    closed         how the connection was closed: by (peer or us), code, reason; or null
    alive          whether another tunnel on the same connection echoes after the case; null if it was not tried
    fetched        what came over QUIC in the tunnel

Payloads are hexadecimal; of those longer than 64 bytes the length, and whether they are as `noise` makes them.
"""

import argparse
import asyncio
import json

from capsules import TEMPLATE, noise
from cases import CASES, WANTS
from http2 import Http2
from http3 import Http3


async def run(o: argparse.Namespace, name: str) -> dict:
    wants = WANTS[name]
    client = await (Http3.open(o, **wants["opening"]) if o.over == "h3" else Http2.open(o))
    alive = None
    if not client.closed:
        await CASES[name](client)
        streams = [stream.seen for stream in client.streams.values()]
        if wants["after"] and o.after:
            alive = await client.still_echoes()
    else:
        streams = []
    client.end()
    return {"case": name, **client.found, "streams": streams, "closed": client.closed, "alive": alive}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the cases")
    parser.add_argument("--over", choices=["h3", "h2"], default="h3")
    parser.add_argument("--ca", help="trust this authority; without it, anyone")
    parser.add_argument("--name", default="localhost", help="the name in the proxy's certificate")
    parser.add_argument("--authority", help=":authority; the proxy's address without it")
    parser.add_argument("--template", default=TEMPLATE, help="path of the tunnel, with target_host and target_port")
    parser.add_argument("--header", action="append", default=[], metavar="NAME=VALUE", help="a field more")
    parser.add_argument("--payload", action="append", type=bytes.fromhex, default=[], dest="payloads", metavar="HEX")
    parser.add_argument("--size", action="append", type=int, default=[], help="a payload of so many bytes")
    parser.add_argument("--count", type=int, default=10, help="how many tunnels, in the cases of many")
    parser.add_argument("--path", default="/", help="what is got over QUIC in the tunnel")
    parser.add_argument("--mtu", type=int, default=1452, help="the size of our UDP payloads")
    parser.add_argument("--timeout", type=float, default=3, help="seconds that anything may take")
    parser.add_argument("--no-after", action="store_false", dest="after", help="try no tunnel after the case")
    parser.add_argument("proxy", nargs="?")
    parser.add_argument("target_host", nargs="?")
    parser.add_argument("target_port", nargs="?")
    parser.add_argument("cases", nargs="*", metavar="CASE")
    o = parser.parse_args()
    if o.list:
        print("\n".join(f"{name:36}{function.__doc__}" for name, function in CASES.items()))
        return
    possible = [name for name in CASES if WANTS[name]["only"] in (None, o.over)]
    if not o.cases or any(name not in possible for name in o.cases):
        parser.error(f"cases over {o.over}: {' '.join(possible)}")
    o.payloads = (o.payloads + [noise(size) for size in o.size]) or [b"one", b"two", b"three"]
    o.authority = o.authority or o.proxy
    for name in o.cases:
        print(json.dumps(asyncio.run(run(o, name))), flush=True)


if __name__ == "__main__":
    main()
