"""What the clients share: variable-length integers, capsules, and the path of a target."""

from urllib.parse import quote

DATAGRAM = 0  # RFC 9297 section 3.5
TEMPLATE = "/.well-known/masque/udp/{target_host}/{target_port}/"  # RFC 9298 section 2


def varint(value: int) -> bytes:
    """RFC 9000 section 16, as short as it can be."""
    for bits, prefix in (6, 0), (14, 1), (30, 2), (62, 3):
        if value < 1 << bits:
            return (value | prefix << bits).to_bytes((bits + 2) // 8, "big")
    raise ValueError(value)


def read_varint(data: bytes) -> tuple[int, bytes] | None:
    """A value and what follows it; None if it is not all there."""
    if not data or len(data) < (size := 1 << (data[0] >> 6)):
        return None
    return int.from_bytes(data[:size], "big") & ((1 << (8 * size - 2)) - 1), data[size:]


def capsule(kind: int, value: bytes) -> bytes:
    return varint(kind) + varint(len(value)) + value


def udp(payload: bytes, context: int = 0) -> bytes:
    """An HTTP datagram that carries a UDP payload (RFC 9298 section 5)."""
    return varint(context) + payload


def udp_capsule(payload: bytes, context: int = 0) -> bytes:
    return capsule(DATAGRAM, udp(payload, context))


class Capsules:
    """Takes a stream apart."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        self.rest += data
        found = []
        while (kind := read_varint(self.rest)) and (length := read_varint(kind[1])):
            size, rest = length
            if len(rest) < size:
                break
            found.append((kind[0], rest[:size]))
            self.rest = rest[size:]
        return found


def path_of(host: str, port: object, template: str = TEMPLATE) -> str:
    """The template with host and port in it: everything percent-encoded that is not unreserved."""
    return template.replace("{target_host}", quote(host, safe="")).replace("{target_port}", quote(str(port), safe=""))


def shown(payload: bytes) -> str:
    """A payload in JSON: hexadecimal; of a long one its length, its ends and whether it is what `noise` gives."""
    if len(payload) <= 64:
        return payload.hex()
    return f"{len(payload)} bytes, {'as sent' if payload == noise(len(payload)) else 'altered'}"


def noise(size: int) -> bytes:
    """A payload of a size: the same each time, and at no place the same as a little further on."""
    return bytes((i * 7 + i // 251) % 256 for i in range(size))
