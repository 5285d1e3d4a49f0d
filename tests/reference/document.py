"""The vectors that docs/protocol.md prints: a network id, a handshake, one cell each way through three hops, and
datagrams.

`python document.py` writes them into chapter 8 of the document; `python document.py --check` compares the chapter with
what it would write, and fails where they differ. The chapter's fenced blocks are named by the word behind the fence's
`text`; everything between them is written by people.
"""

import hashlib
import pathlib
import re
import struct
import sys

from kyber_py.ml_kem import ML_KEM_768

import circuit
import layers
from documents import ipv4, key, number, public, sequence, signed, string
from layers import AES, CHACHA, HEADER, MAX_HOPS, PAYLOAD, SLOT

DOCUMENT = pathlib.Path(__file__).parents[2] / "docs" / "protocol.md"
COLUMNS = 120
CIRCUIT_ID = 0x80000001


def secret(*name):
    return hashlib.sha256(("cepa document " + " ".join(map(str, name))).encode()).digest()


def sha(data):
    return hashlib.sha256(data).digest()


# 6.3 ---------------------------------------------------------------------------


def ipv6(address, port):
    return b"\1" + address + number(port)


V6 = bytes.fromhex("20010db8000000000000000000000001")  # 2001:db8::1


def network():
    """The file of 8.1, and its signed part, id and keys."""
    authorities = [
        {
            "name": name,
            "identity": public(key(f"{name} identity")),
            "signing_key": public(key(name)),
            "addresses": addresses,
        }
        for name, addresses in (
            ("one", [("192.0.2.1:9001", ipv4("192.0.2.1", 9001)), ("[2001:db8::1]:9001", ipv6(V6, 9001))]),
            ("two", [("192.0.2.2:443", ipv4("192.0.2.2", 443))]),
        )
    ]
    authorities.sort(key=lambda authority: authority["identity"])
    fallback = (public(key("three identity")), "192.0.2.3:9001", ipv4("192.0.2.3", 9001))
    params = {"stream_window_bytes": 262144, "vote_interval_seconds": 1800}

    part = string("example")
    part += sequence(
        [
            string(a["name"]) + a["identity"] + a["signing_key"] + sequence([e for _, e in a["addresses"]])
            for a in authorities
        ]
    )
    part += sequence([fallback[0] + sequence([fallback[2]])])
    part += sequence([string(name) + number(value) for name, value in sorted(params.items())])
    network_id = sha(b"cepa network" + bytes([1, 1]) + part)

    lines = ["format = 1", 'name = "example"', "", "[params]"]
    lines += [f"{name} = {value}" for name, value in params.items()]
    for a in authorities:
        addresses = ", ".join(f'"{text}"' for text, _ in a["addresses"])
        lines += ["", "[[authority]]", f'name = "{a["name"]}"', f'identity = "{a["identity"].hex()}"']
        lines += [f'signing_key = "{a["signing_key"].hex()}"', f"addresses = [{addresses}]"]
    lines += ["", "[[fallback]]", f'identity = "{fallback[0].hex()}"', f'addresses = ["{fallback[1]}"]']
    for a in authorities:
        signature = key(a["name"]).sign(signed(1, network_id, part)).hex()
        lines += ["", "[[signature]]", f'signing_key = "{a["signing_key"].hex()}"', 'algorithm = "ed25519"']
        lines += ['signature = """\\', f"  {signature[:64]}\\", f'  {signature[64:]}"""']
    secrets = {f"signing_secret_{a['name']}": key(a["name"]).private_bytes_raw() for a in authorities}
    return "\n".join(lines), secrets | {"signed_part": part, "network_id": network_id}


# Chapter 3 -----------------------------------------------------------------------


def handshake(network_id):
    relay, b, x, y = (secret(name) for name in ("relay", "b", "x", "y"))
    d, z, m = (secret(name) for name in ("d", "z", "m"))
    ek, dk = ML_KEM_768.key_derive(d + z)
    first = circuit.client_message(CHACHA, network_id, relay, circuit.public(b), x, ek, circuit.client_params())
    params = circuit.relay_params(version=1, cells=2048, interval=32, stream=262144)
    second = circuit.relay_reply(first, b, y, circuit.public(x), ek, m, params)
    assert ML_KEM_768.decaps(dk, second["ct"]) == second["kem"]
    keys = second["keys"]
    values = {
        "suite": b"\1",
        "network": network_id,
        "relay": relay,
        "b": b,
        "x": x,
        "y": y,
        "d": d,
        "z": z,
        "m": m,
        "dk_pke": dk[:1152],
        "ek_hash": dk[1152 + len(ek) : -32],
        "client_params": circuit.client_params(),
        "relay_params": params,
        "xb": circuit.agree(b, circuit.public(x)),
        "t1": first["t1"],
        "k1": first["k1"],
        "message": first["message"],
        "xy": circuit.agree(y, circuit.public(x)),
        "kem": second["kem"],
        "t2": second["t2"],
        "prk": keys["prk"],
        "k2": keys["relay params"],
        "ka": keys["relay auth"],
        "reply": second["reply"],
    }
    layer = {way: {kind: keys[f"{way} {kind}"] for kind in KINDS} for way in WAYS}
    values |= {f"{way}_{kind}": layer[way][kind] for way in WAYS for kind in KINDS}
    for name, command, body in (("create", 1, first["message"]), ("created", 2, second["reply"])):
        values[f"{name}_cell_sha256"] = sha(cell(command, (b"\1" + body).ljust(2040, b"\0")))
    return values, layer


WAYS = ("forward", "backward")
KINDS = ("aead", "header", "chain")


# Chapters 2, 4 and 5 ---------------------------------------------------------------


def cell(command, body):
    """2.1"""
    assert len(body) == 2040
    return struct.pack(">IB3x", CIRCUIT_ID, command) + body


def message(kind, stream, data):
    """5.1"""
    return struct.pack(">BHH", kind, stream, len(data)) + data


def cells(first_layer):
    suites = {1: CHACHA, 2: AES, 3: CHACHA}
    keys = {1: first_layer}
    for hop in (2, 3):
        keys[hop] = {way: {kind: secret("hop", hop, way, kind) for kind in KINDS} for way in WAYS}
    values = {}
    for hop in (2, 3):
        values |= {f"hop{hop}_{way}_{kind}": keys[hop][way][kind] for way in WAYS for kind in KINDS}
    client = [layers.Hop(suites[hop], keys[hop]) for hop in (1, 2, 3)]
    relays = [layers.Hop(suites[hop], keys[hop]) for hop in (1, 2, 3)]

    said = message(3, 1, struct.pack(">HB", 80, 1) + b"example.com") + message(7, 1, b"GET / HTTP/1.0\r\n\r\n")
    random = secret("random") + secret("more random")[:16]
    assert len(random) == SLOT * (MAX_HOPS - 3)
    header, body = layers.client_seal(client, said.ljust(PAYLOAD, b"\0"), random)
    values |= {"forward_payload": said, "random": random}
    values["forward_cell_sha256"] = sha(cell(3, header + body))
    for hop, relay in enumerate(relays, 1):
        values[f"forward_header_to_{hop}"] = header
        values[f"forward_body_to_{hop}_sha256"] = sha(header + body)
        header, body = layers.relay_open(relay.forward, header, body)
    assert header[:SLOT] == layers.MARKER and body == said.ljust(PAYLOAD, b"\0")
    values |= {"forward_header_opened": header, "forward_body_opened_sha256": sha(header + body)}

    said = message(6, 1, b"") + message(7, 1, b"HTTP/1.0 204 No Content\r\n\r\n")
    header, body = layers.relay_speak(relays[2].backward, said.ljust(PAYLOAD, b"\0"))
    values["backward_payload"] = said
    for hop in (3, 2, 1):
        values[f"backward_header_from_{hop}"] = header
        values[f"backward_body_from_{hop}_sha256"] = sha(header + body)
        if hop > 1:
            header, body = layers.relay_wrap(relays[hop - 2].backward, header, body)
    values["backward_cell_sha256"] = sha(cell(3, header + body))
    assert len(header) == HEADER
    assert layers.client_open(client, header, body) == (3, said.ljust(PAYLOAD, b"\0"))
    return values


def datagrams():
    """5.32: two payloads with whole datagrams, and one datagram that two payloads carry."""
    to_name = struct.pack(">HBB", 53, 1, 11) + b"example.com" + b"\x12\x34"
    from_v6 = struct.pack(">HB", 443, 6) + bytes.fromhex("20010db8000000000000000000000001")
    cut = struct.pack(">HB", 4500, 4) + bytes([192, 0, 2, 7]) + bytes(place % 251 for place in range(3000))
    room = PAYLOAD - 5
    first = message(24, 1, cut[:room])
    second = message(8, 1, cut[room:]) + message(26, 1, b"\x01")
    assert len(first) == PAYLOAD
    return {
        "forward_payload": message(5, 1, b"") + message(8, 1, to_name),
        "backward_payload": message(25, 1, b"") + message(8, 1, from_v6),
        "cut_first_sha256": sha(first),
        "cut_second_sha256": sha(second.ljust(PAYLOAD, b"\0")),
    }


# The document ------------------------------------------------------------------------


def show(values):
    """A line for a value, and further lines, indented, for what does not fit."""
    width = max(map(len, values)) + 2
    room = (COLUMNS - width) // 16 * 16
    lines = []
    for name, value in values.items():
        digits = value.hex()
        pieces = [digits[at : at + room] for at in range(0, len(digits), room)]
        lines += [(name if not at else "").ljust(width) + piece for at, piece in enumerate(pieces)]
    return "\n".join(lines)


def blocks():
    text, values = network()
    shaken, layer = handshake(values["network_id"])
    return {
        "network.toml": text,
        "network": show(values),
        "handshake": show(shaken),
        "cells": show(cells(layer)),
        "datagrams": show(datagrams()),
    }


def main():
    before = DOCUMENT.read_text()
    after = before
    for name, text in blocks().items():
        fence = re.compile(rf"^```text {re.escape(name)}\n.*?^```$", re.MULTILINE | re.DOTALL)
        assert len(fence.findall(after)) == 1, f"one block named {name}"
        after = fence.sub(lambda _: f"```text {name}\n{text}\n```", after)
    if "--check" not in sys.argv:
        DOCUMENT.write_text(after)
    elif before != after:
        sys.exit("chapter 8 of docs/protocol.md is not what document.py writes")


if __name__ == "__main__":
    main()
