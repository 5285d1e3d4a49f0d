"""Writes a small GeoIP file in MaxMind's format (version 2.0): python3 tests/reference/mmdb.py OUT

A tree of IPv6 prefixes with records of 24 bits, then 16 zero bytes, the data, and the metadata. IPv4 addresses stand at
::/96. The networks are those of documentation, 20.N.0.0/16 as relays of the
tests have them, and loopback, which no true file puts anywhere.
"""

import ipaddress
import sys

NETWORKS = {
    "192.0.2.0/24": "DE",
    "198.51.100.0/24": "CH",
    "127.0.0.0/8": "XX",
    "20.1.0.0/16": "DE",
    "20.2.0.0/16": "FR",
    "20.3.0.0/16": "FR",
    "2001:db8::/32": "NL",
}


def text(value):
    raw = value.encode()
    assert len(raw) < 29
    return bytes([2 << 5 | len(raw)]) + raw


def number(kind, value):
    raw = value.to_bytes((value.bit_length() + 7) // 8, "big")
    if kind > 7:
        return bytes([len(raw), kind - 7]) + raw
    return bytes([kind << 5 | len(raw)]) + raw


def table(pairs):
    return bytes([7 << 5 | len(pairs)]) + b"".join(text(key) + value for key, value in pairs)


def bits_of(network):
    network = ipaddress.ip_network(network)
    bits, width = int(network.network_address), network.prefixlen
    if network.version == 4:
        width += 96
    return format(bits, "0128b")[:width]


def build():
    data, offsets = b"", {}
    for country in sorted(set(NETWORKS.values())):
        offsets[country] = len(data)
        data += table([("country", table([("iso_code", text(country))]))])
    nodes = [[None, None]]
    for network, country in NETWORKS.items():
        at = 0
        *way, last = bits_of(network)
        for bit in map(int, way):
            if nodes[at][bit] is None:
                nodes.append([None, None])
                nodes[at][bit] = len(nodes) - 1
            at = nodes[at][bit]
        nodes[at][int(last)] = country

    def record(value):
        if value is None:
            value = len(nodes)
        elif isinstance(value, str):
            value = len(nodes) + 16 + offsets[value]
        return value.to_bytes(3, "big")

    tree = b"".join(record(left) + record(right) for left, right in nodes)
    metadata = table(
        [
            ("binary_format_major_version", number(5, 2)),
            ("binary_format_minor_version", number(5, 0)),
            ("build_epoch", number(9, 1_700_000_000)),
            ("database_type", text("Cepa-Test-Country")),
            ("description", table([("en", text("networks of tests"))])),
            ("ip_version", number(5, 6)),
            ("languages", bytes([0, 4])),
            ("node_count", number(6, len(nodes))),
            ("record_size", number(5, 24)),
        ]
    )
    return tree + bytes(16) + data + b"\xab\xcd\xefMaxMind.com" + metadata


if __name__ == "__main__":
    with open(sys.argv[1], "wb") as out:
        out.write(build())
