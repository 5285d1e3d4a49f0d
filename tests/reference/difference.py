"""Differences between consensuses (docs/protocol.md, 6.19), made and applied on bodies alone: nothing is signed here."""

import hashlib
import json

NETWORK = bytes(range(32))


def number(n):
    out = b""
    while n > 0x7F:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


def zigzag(n):
    n &= 0xFFFFFFFF
    signed = n - (1 << 32) if n >> 31 else n
    return number(((signed << 1) ^ (signed >> 31)) & 0xFFFFFFFF)


def text(s):
    return number(len(s)) + s.encode()


def option(value, encode):
    return b"\0" if value is None else b"\1" + encode(value)


def raw(value):
    return value


def many(values, encode):
    values = list(values)
    return number(len(values)) + b"".join(map(encode, values))


def address(value):
    ip, port = value
    return bytes([0 if len(ip) == 4 else 1]) + ip + number(port)


def ranges(value):
    return many(value, lambda r: number(r[0]) + number(r[1]))


def policy(value):
    return ranges(value[0]) + ranges(value[1])


def optional_key(value):
    return option(value, raw)


# Field and encoding, in order; weight and flags have lists of their own in a difference.
FIELDS = [
    ("link_key", optional_key),
    ("onion_key", raw),
    ("suite", lambda n: bytes([n])),
    ("addresses", lambda a: many(a, address)),
    ("weight", number),
    ("flags", number),
    ("policy", policy),
    ("udp", policy),
    ("family", optional_key),
    ("nickname", text),
    ("version", text),
]


def entry(e):
    return e["identity"] + b"".join(encode(e[name]) for name, encode in FIELDS)


def params(pairs):
    return many(sorted(pairs.items()), lambda p: text(p[0]) + number(p[1]))


def value(v):
    return number(v[0]) + v[1]


def consensus(c):
    head = b"".join(map(number, c["lifetime"])) + params(c["params"])
    return head + many(c["entries"], entry) + many(c["values"], value)


def digest(body):
    return hashlib.sha256(b"cepa \4\2" + NETWORK + body).digest()


def positions(items, encode):
    last, out = -1, []
    for position, value in items:
        out.append(number(position - last - 1) + encode(value))
        last = position
    return number(len(out)) + b"".join(out)


def make(a, b):
    new = {e["identity"]: e for e in b["entries"]}
    held = {e["identity"] for e in a["entries"]}
    removed, weights, flags, changed = [], [], [], []
    for n, old in enumerate(a["entries"]):
        e = new.get(old["identity"])
        if e is None:
            removed.append((n, b""))
            continue
        if e["weight"] != old["weight"]:
            weights.append((n, e["weight"] - old["weight"]))
        if e["flags"] != old["flags"]:
            flags.append((n, e["flags"]))
        others = [f for f in FIELDS if f[0] not in ("weight", "flags")]
        if any(e[name] != old[name] for name, _ in others):
            # An option of an option for link key and family: absent, absent in B, or there.
            change = [
                option(e[name] if name not in ("link_key", "family") else (e[name],),
                       encode if name not in ("link_key", "family") else lambda v: optional_key(v[0]))
                if e[name] != old[name] else b"\0"
                for name, encode in others
            ]
            changed.append((n, b"".join(change)))
    gone = sorted(set(a["params"]) - set(b["params"]))
    put = {k: v for k, v in b["params"].items() if a["params"].get(k) != v}
    return (
        digest(consensus(a))
        + b"".join(map(number, b["lifetime"]))
        + many(gone, text)
        + params(put)
        + many(b["values"], value)
        + positions(removed, raw)
        + positions(weights, zigzag)
        + positions(flags, number)
        + positions(changed, raw)
        + many([e for e in b["entries"] if e["identity"] not in held], entry)
    )


# A reader of differences, so that what is made is also applied by other code than that which made it. --


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        self.at += n
        assert self.at <= len(self.data)
        return self.data[self.at - n : self.at]

    def number(self):
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def zigzag(self):
        n = self.number()
        return (n >> 1) ^ -(n & 1)

    def text(self):
        return self.take(self.number()).decode()

    def option(self, read):
        return read() if self.take(1)[0] else None

    def many(self, read):
        return [read() for _ in range(self.number())]

    def key(self):
        return self.take(32)

    def address(self):
        ip = self.take(16 if self.take(1)[0] else 4)
        return ip, self.number()

    def ranges(self):
        return self.many(lambda: (self.number(), self.number()))

    def fields(self, wrap):
        read = {
            "link_key": lambda: self.option(self.key),
            "onion_key": self.key,
            "suite": lambda: self.take(1)[0],
            "addresses": lambda: self.many(self.address),
            "weight": self.number,
            "flags": self.number,
            "policy": lambda: (self.ranges(), self.ranges()),
            "udp": lambda: (self.ranges(), self.ranges()),
            "family": lambda: self.option(self.key),
            "nickname": self.text,
            "version": self.text,
        }
        return wrap(read)

    def entry(self):
        identity = self.key()
        return {"identity": identity} | self.fields(lambda r: {n: f() for n, f in r.items()})

    def change(self):
        def some(read):
            out = {}
            for name, field in read.items():
                if name not in ("weight", "flags") and self.take(1)[0]:
                    out[name] = field()
            return out

        return self.fields(some)

    def positions(self, read):
        last, out = -1, {}
        for _ in range(self.number()):
            last += self.number() + 1
            out[last] = read()
        return out


def apply(a, difference):
    r = Reader(difference)
    assert r.key() == digest(consensus(a))
    lifetime = [r.number() for _ in range(3)]
    pairs = dict(a["params"])
    for name in r.many(r.text):
        del pairs[name]
    pairs |= dict(r.many(lambda: (r.text(), r.number())))
    values = r.many(lambda: (r.number(), r.key()))
    removed = r.positions(lambda: None)
    weights, flags = r.positions(r.zigzag), r.positions(r.number)
    changed, added = r.positions(r.change), r.many(r.entry)
    assert r.at == len(difference)
    entries = list(added)
    for n, e in enumerate(a["entries"]):
        if n in removed:
            assert n not in weights and n not in flags and n not in changed
            continue
        e = e | changed.get(n, {})
        e["weight"] = (e["weight"] + weights.get(n, 0)) & 0xFFFFFFFF
        e["flags"] = flags.get(n, e["flags"])
        entries.append(e)
    entries.sort(key=lambda e: e["identity"])
    return {"lifetime": lifetime, "params": pairs, "entries": entries, "values": values}


def relay(n, **fields):
    key = lambda what: hashlib.sha256(f"{what} {n}".encode()).digest()
    usual = {
        "identity": key("identity"),
        "link_key": None,
        "onion_key": key("onion"),
        "suite": 1 + n % 2,
        "addresses": [(bytes([10, 0, 0, n]), 443)],
        "weight": 1000 * n,
        "flags": 0b11,
        "policy": ([(80, 80), (443, 443)], []),
        "udp": ([], []),
        "family": None,
        "nickname": f"relay{n}",
        "version": "0.1.0",
    }
    return usual | fields


def of(valid_after, pairs, relays, values=()):
    lifetime = [valid_after, valid_after + 3600, valid_after + 86400]
    entries = sorted(relays, key=lambda e: e["identity"])
    return {"lifetime": lifetime, "params": pairs, "entries": entries, "values": list(values)}


def cases():
    a = of(1_900_000_000, {"circuit_window_cells": 700, "gone": 1}, [relay(n) for n in range(1, 9)])
    k = hashlib.sha256(b"new").digest()
    moved = [(bytes(15) + b"\1", 9001), (bytes([10, 9, 9, 9]), 1)]
    every = [
        relay(1, weight=5),
        relay(2, weight=0xFFFFFFFF, flags=0b111111),
        relay(3, link_key=k, family=k),
        relay(4, onion_key=k, suite=2, version="0.2.0"),
        relay(5, addresses=moved, policy=([], [(1, 65535)]), nickname="other"),
        relay(7, udp=([(53, 53)], [(53, 53), (443, 443)]), flags=0x1FF),
        relay(20),
        relay(21),
    ]
    b = of(1_900_003_600, {"circuit_window_cells": 701, "new": 0}, every, [(300, k), (301, bytes(32))])
    drift = of(1_900_003_600, a["params"], [relay(n, weight=1000 * n + (-1) ** n * n) for n in range(1, 9)])
    empty = of(1_900_003_600, {}, [])
    return {"every field": (a, b), "and back": (b, a), "drift": (a, drift), "all go": (a, empty), "all come": (empty, b), "nothing": (a, a)}


def vectors():
    out = []
    for name, (a, b) in cases().items():
        difference = make(a, b)
        assert consensus(apply(a, difference)) == consensus(b), name
        out.append({
            "name": name,
            "network": NETWORK.hex(),
            "old": consensus(a).hex(),
            "new": consensus(b).hex(),
            "difference": difference.hex(),
        })
    return json.dumps({"differences": out}, indent=1) + "\n"
