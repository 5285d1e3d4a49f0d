"""Writes the vectors of common/testdata/."""

import base64
import hashlib
import json
import pathlib

from kyber_py.ml_kem import ML_KEM_768

import circuit
import difference
import layers
from layers import AES, CHACHA, HEADER, MAX_HOPS, PAYLOAD, REST, SLOT

OUT = pathlib.Path(__file__).parents[2] / "common" / "testdata"


def secret(*name):
    return hashlib.sha256(("cepa vector " + " ".join(map(str, name))).encode()).digest()


def expand(name, length):
    out, number = b"", 0
    while len(out) < length:
        out += hashlib.sha256(name.encode() + number.to_bytes(4, "big")).digest()
        number += 1
    return out[:length]


def show(header, payload):
    return {"header": header.hex(), "sha256": hashlib.sha256(header + payload).hexdigest()}


def make_keys(name, kinds=("aead", "header", "chain")):
    return {
        way: {kind: secret(name, way, kind) for kind in kinds} for way in ("forward", "backward")
    }


def circuit_of(name, suites):
    return [(suite, make_keys(f"{name} hop {i}")) for i, suite in enumerate(suites, 1)]


def hops_of(plan, counter=0):
    return [layers.Hop(suite, keys, counter) for suite, keys in plan]


def plan_json(plan):
    flat = lambda keys: [keys[way][k].hex() for way in keys for k in ("aead", "header", "chain")]
    return [{"suite": suite, "keys": flat(keys)} for suite, keys in plan]


# Sessions: the cells of one circuit, one after the other. --------------------


def forward_cell(client, relays, name, target):
    payload = expand(name, PAYLOAD)
    random = expand(name + " random", SLOT * (MAX_HOPS - target))
    header, body = layers.client_seal(client[:target], payload, random)
    links = [show(header, body)]
    for relay in relays[:target]:
        header, body = layers.relay_open(relay.forward, header, body)
        links.append(show(header, body))
    assert header[:SLOT] == layers.MARKER and body == payload
    return {"way": "forward", "hop": target, "payload": name, "random": random.hex(), "links": links}


def backward_cell(client, relays, name, speaker):
    payload = expand(name, PAYLOAD)
    header, body = layers.relay_speak(relays[speaker - 1].backward, payload)
    links = [show(header, body)]
    for relay in reversed(relays[: speaker - 1]):
        header, body = layers.relay_wrap(relay.backward, header, body)
        links.append(show(header, body))
    assert layers.client_open(client, header, body) == (speaker, payload)
    return {"way": "backward", "hop": speaker, "payload": name, "links": links}


def session(name, suites, order, counter=0):
    plan = circuit_of(name, suites)
    client, relays = hops_of(plan, counter), hops_of(plan, counter)
    cells = []
    for number, (way, hop) in enumerate(order):
        make = forward_cell if way == "f" else backward_cell
        cells.append(make(client, relays, f"{name} cell {number}", hop))
    return {"name": name, "hops": plan_json(plan), "counter": counter, "cells": cells}


def sessions():
    out = []
    for suite in (CHACHA, AES):
        for length in range(1, MAX_HOPS + 1):
            # Every target and every speaker, so that the hops' counters drift apart.
            order = [(way, hop) for hop in range(1, length + 1) for way in "fb"]
            order += [("b", length), ("f", length)]
            out.append(session(f"{suite} of {length}", [suite] * length, order))
    mixed = [CHACHA, AES, AES, CHACHA, AES, CHACHA]
    out.append(session("mixed", mixed, [(way, hop) for hop in (6, 3, 1, 6) for way in "fb"]))
    for suite in (CHACHA, AES):
        for period in (1, 2, 2**32):
            order = [(way, 3) for _ in range(4) for way in "fb"]
            start = period * 2**16 - 2
            out.append(session(f"{suite} ratchet {period}", [suite] * 3, order, start))
    return out


# Splices. ---------------------------------------------------------------------


def splice(name, suites_a, suites_b, suite_end, counter=0):
    plan_a, plan_b = circuit_of(name + " a", suites_a), circuit_of(name + " b", suites_b)
    ends = make_keys(name + " end", ("aead", "chain"))
    sides = {
        "a": (hops_of(plan_a), hops_of(plan_a), "forward"),
        "b": (hops_of(plan_b), hops_of(plan_b), "backward"),
    }
    end = {
        side: {way: layers.EndDirection(suite_end, ends[way], counter) for way in ends}
        for side in sides
    }
    cells = []
    for number, (here, there) in enumerate(["ab", "ba", "ab", "ab", "ba", "ba"]):
        cell = f"{name} cell {number}"
        payload = expand(cell, PAYLOAD)
        client, relays, says = sides[here]
        far_client, far_relays, _ = sides[there]
        random = expand(cell + " random", SLOT * (MAX_HOPS - len(client)))
        tag, body = end[here][says].seal_cell(payload)
        header, body = layers.client_seal(client, body, random, tag)
        links = [show(header, body)]
        for relay in relays:
            header, body = layers.relay_open(relay.forward, header, body)
            links.append(show(header, body))
        assert header[:SLOT] == tag
        header, body = layers.relay_speak_joined(far_relays[-1].backward, header, body)
        links.append(show(header, body))
        for relay in reversed(far_relays[:-1]):
            header, body = layers.relay_wrap(relay.backward, header, body)
            links.append(show(header, body))
        assert layers.client_open(far_client, header, body, end[there][says]) == (0, payload)
        cells.append(
            {"from": here, "payload": cell, "random": random.hex(), "tag": tag.hex(), "links": links}
        )
    return {
        "name": name,
        "a": plan_json(plan_a),
        "b": plan_json(plan_b),
        "suite": suite_end,
        "counter": counter,
        "a_says": [ends["forward"][k].hex() for k in ("aead", "chain")],
        "b_says": [ends["backward"][k].hex() for k in ("aead", "chain")],
        "cells": cells,
    }


# Broken cells. -----------------------------------------------------------------


def b64(header, payload):
    return base64.b64encode(header + payload).decode()


def broken_forward(suite):
    """Cells that a relay must refuse as the first one of its circuit."""
    name = f"{suite} broken"
    plan = circuit_of(name, [suite])
    random = expand(name + " random", SLOT * 5)
    payload = expand(name, PAYLOAD)
    good = lambda counter=0: layers.client_seal(hops_of(plan, counter), payload, random)
    header, body = good()
    direction = hops_of(plan)[0].forward
    cases = {"good": (header, body)}
    cases["second cell first"] = good(1)
    tag, bare = direction.seal(payload, b"")
    cases["header not covered"] = (tag + header[SLOT:], bare)
    cases["not sealed"] = (bytes(HEADER), payload)
    swapped = {"aead": direction.keys["header"], "header": direction.keys["aead"]}
    other = layers.Direction(suite, direction.keys | swapped)
    tag, mixed = other.seal(payload, header[SLOT:])
    cases["keys swapped"] = (tag + header[SLOT:], mixed)
    other = layers.Direction(AES if suite == CHACHA else CHACHA, direction.keys)
    tag, mixed = other.seal(payload, header[SLOT:])
    cases["other suite"] = (tag + header[SLOT:], mixed)
    little = layers.Direction(suite, direction.keys, 1)
    little.nonce = lambda: (1).to_bytes(12, "little")
    tag, mixed = little.seal(payload, header[SLOT:])
    cases["nonce not big endian"] = (tag + header[SLOT:], mixed)
    return {
        "hops": plan_json(plan),
        "cells": [{"name": n, "good": n == "good", "body": b64(*c)} for n, c in cases.items()],
    }


def broken_backward(suite):
    """Cells that a client of three hops must refuse as the first one of its circuit.

    `between` counts hops from 1, the client being 0; null: all seals fit, no marker does.
    """
    name = f"{suite} broken back"
    plan = circuit_of(name, [suite] * 3)
    payload = expand(name, PAYLOAD)
    cases = []

    def send(what, between, x=bytes(HEADER), speaker=3, on_link=None, counters=(0, 0, 0)):
        directions = [
            layers.Direction(s, keys["backward"], c) for (s, keys), c in zip(plan, counters)
        ]
        header, body = layers.relay_seal(directions[speaker - 1], x, payload)
        for link in range(speaker - 1, -1, -1):
            if on_link and on_link[0] == link:
                header, body = on_link[1](header, body)
            if link:
                header, body = layers.relay_seal(directions[link - 1], header, body)
        cases.append({"name": what, "between": between, "body": b64(header, body)})
        client = hops_of(plan)
        try:
            layers.client_open(client, header, body)
            assert what == "good"
        except layers.Broken:
            assert what != "good"

    flip = lambda at: lambda h, p: (
        (h[:at] + bytes([h[at] ^ 1]) + h[at + 1 :], p)
        if at < HEADER
        else (h, p[: at - HEADER] + bytes([p[at - HEADER] ^ 1]) + p[at - HEADER + 1 :])
    )
    send("good", [])
    for link in range(3):
        for at in (0, 16, 40, 112, 2039):
            send(f"byte {at} behind hop {link}", [link, link + 1], on_link=(link, flip(at)))
    send("no marker", None, x=b"\x01" + bytes(HEADER - 1))
    send("bytes behind the marker", None, x=bytes(SLOT) + b"\x01" + bytes(REST - 1), speaker=2)
    send("first hop skipped a cell", [0, 1], counters=(1, 0, 0))
    send("keys of another way", [0, 1], on_link=(0, lambda h, p: (h[SLOT:] + h[:SLOT], p)))
    return {"hops": plan_json(plan), "cells": cases}


# Handshakes. ----------------------------------------------------------------------


def handshake(suite, number):
    name = f"handshake {suite} {number}"
    network, relay = secret(name, "network"), secret(name, "relay")
    b, x, y, m = (secret(name, part) for part in ("b", "x", "y", "m"))
    ek, dk = ML_KEM_768.key_derive(secret(name, "d") + secret(name, "z"))
    said = circuit.client_params()
    answered = circuit.relay_params(cells=64 << number, interval=8 << number, stream=1 << 14 + number)
    first = circuit.client_message(suite, network, relay, circuit.public(b), x, ek, said)
    reply = lambda params, forge=None: circuit.relay_reply(
        first, b, y, circuit.public(x), ek, m, params, forge
    )
    good = reply(answered)
    assert ML_KEM_768.decaps(dk, good["ct"]) == good["kem"]
    out = {
        "suite": suite,
        "network": network,
        "relay": relay,
        "b": b,
        "x": x,
        "y": y,
        "ek": ek,
        "dk": dk,
        "kem": good["kem"],
        "ct": good["ct"],
        "xb": circuit.agree(x, circuit.public(b)),
        "xy": circuit.agree(x, circuit.public(y)),
        "t1": first["t1"],
        "k1": first["k1"],
        "message": first["message"],
        "t2": good["t2"],
        "relay_params": answered,
        "reply": good["reply"],
        "keys": [v for k, v in good["keys"].items() if k.startswith(("forward", "backward"))],
    }
    if number:
        return out

    # What an honest client must refuse, though sealed with the right keys.
    flip = lambda data, at: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    dirty = circuit.relay_params()[:-1] + b"\x01"
    out["bad_replies"] = [
        {"error": error, "reply": data}
        for error, data in [
            ("NoCommonVersion", reply(circuit.relay_params(version=2))["reply"]),
            ("BadParams", reply(circuit.relay_params(version=0))["reply"]),
            ("BadParams", reply(circuit.relay_params(cells=63))["reply"]),
            ("BadParams", reply(circuit.relay_params(interval=513))["reply"]),
            ("BadParams", reply(circuit.relay_params(stream=1))["reply"]),
            ("BadParams", reply(dirty)["reply"]),
            ("BadAuth", reply(answered, lambda c2: flip(c2, 3))["reply"]),
            ("BadAuth", flip(good["reply"], 40)),
        ]
    ]
    message = lambda params=said, **other: circuit.client_message(
        **({"suite": suite, "network": network, "relay": relay} | other),
        b_public=circuit.public(b), x=x, ek=ek, params=params,
    )["message"]
    other = AES if suite == CHACHA else CHACHA
    out["bad_messages"] = [
        {"error": error, "message": data}
        for error, data in [
            ("WrongKey", message(suite=other)),
            ("WrongKey", message(network=bytes(32))),
            ("WrongKey", message(relay=bytes(32))),
            ("BadParams", message(said[:-1] + b"\x01")),
            ("BadParams", message(circuit.client_params(0, 1))),
            ("BadParams", message(circuit.client_params(2, 1))),
            ("NoCommonVersion", message(circuit.client_params(2, 3))),
            ("UnknownOnionKey", flip(first["message"], 5)),
        ]
    ]
    return out


def plain(value):
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def write(name, value):
    text = json.dumps(plain(value), separators=(",", ":"))
    # A line to a scenario: differences stay readable.
    text = text.replace('},{"name"', '},\n{"name"').replace('},{"suite"', '},\n{"suite"')
    (OUT / name).write_text(text + "\n")
    print(name, len(text))


def main():
    OUT.mkdir(exist_ok=True)
    write("layers.json", sessions())
    write(
        "splices.json",
        [
            splice("splice chacha", [CHACHA] * 3, [CHACHA] * 3, CHACHA),
            splice("splice aes", [AES] * 3, [AES] * 4, AES),
            splice("splice mixed", [CHACHA, AES], [AES, CHACHA, CHACHA, AES, CHACHA, AES], CHACHA),
            splice("splice ratchet", [AES], [CHACHA], AES, 2**16 - 1),
            splice("splice ratchet 2", [AES], [CHACHA], CHACHA, 2**16 - 1),
        ],
    )
    write("broken_layers.json", {s: [broken_forward(s), broken_backward(s)] for s in (CHACHA, AES)})
    write("handshakes.json", [handshake(s, n) for s in (CHACHA, AES) for n in range(3)])

    (OUT / "difference.json").write_text(difference.vectors())


main()
