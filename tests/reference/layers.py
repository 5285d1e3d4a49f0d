"""Onion layers (docs/protocol.md, chapter 4), as plainly as they can be written."""

import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

SLOT, HEADER, PAYLOAD, MAX_HOPS = 16, 112, 1928, 6
REST = HEADER - SLOT
MARKER = bytes(SLOT)
CHACHA, AES = "chacha20-poly1305", "aes-256-gcm"


def xor(a, b):
    assert len(a) == len(b)
    return bytes(x ^ y for x, y in zip(a, b))


def hkdf_expand(prk, info, length):
    out, block, number = b"", b"", 1
    while len(out) < length:
        block = hmac.new(prk, block + info + bytes([number]), hashlib.sha256).digest()
        out, number = out + block, number + 1
    return out[:length]


def hkdf_extract(salt, ikm):
    return hmac.new(salt, ikm, hashlib.sha256).digest()


class Broken(Exception):
    """A layer did not open."""


class Direction:
    """aead, header and chain of one direction at one hop, and its counter."""

    def __init__(self, suite, keys, counter=0):
        self.suite, self.keys, self.counter = suite, dict(keys), counter

    def _aead(self):
        return (ChaCha20Poly1305 if self.suite == CHACHA else AESGCM)(self.keys["aead"])

    def nonce(self):
        return bytes(4) + self.counter.to_bytes(8, "big")

    def z(self):
        key = self.keys["header"]
        if self.suite == CHACHA:
            # The library wants block number (little endian) || nonce.
            mode = Cipher(algorithms.ChaCha20(key, bytes(4) + self.nonce()), mode=None)
        else:
            start = self.counter.to_bytes(8, "big") + bytes(8)
            mode = Cipher(algorithms.AES(key), modes.CTR(start))
        return mode.encryptor().update(bytes(HEADER))

    def seal(self, payload, ad):
        sealed = self._aead().encrypt(self.nonce(), payload, ad)
        return sealed[-SLOT:], sealed[:-SLOT]

    def open(self, tag, payload, ad):
        try:
            return self._aead().decrypt(self.nonce(), payload + tag, ad)
        except InvalidTag:
            raise Broken from None

    def advance(self):
        self.counter += 1
        if self.counter % 2**16 == 0:
            new = hkdf_expand(self.keys["chain"], b"cepa ratchet", 32 * len(self.keys))
            names = [name for name in ("aead", "header", "chain") if name in self.keys]
            self.keys = {name: new[32 * i : 32 * i + 32] for i, name in enumerate(names)}


class EndDirection(Direction):
    """One direction of the layer between the ends of a splice: no header key."""

    def seal_cell(self, payload):
        tag, payload = self.seal(payload, b"")
        self.advance()
        return tag, payload

    def open_cell(self, tag, payload):
        payload = self.open(tag, payload, b"")
        self.advance()
        return payload


class Hop:
    def __init__(self, suite, keys, counter=0):
        self.forward = Direction(suite, keys["forward"], counter)
        self.backward = Direction(suite, keys["backward"], counter)


# A relay. -------------------------------------------------------------------


def relay_open(direction, header, payload):
    """Gives the next header and payload; the cell is this hop's if the first slot is zero."""
    tag, rest = header[:SLOT], header[SLOT:]
    payload = direction.open(tag, payload, rest)
    header = xor(rest + bytes(SLOT), direction.z())
    direction.advance()
    return header, payload


def relay_seal(direction, x, payload):
    rest = xor(x, direction.z())[:REST]
    tag, payload = direction.seal(payload, rest)
    direction.advance()
    return tag + rest, payload


def relay_speak(direction, payload):
    return relay_seal(direction, bytes(HEADER), payload)


def relay_wrap(direction, header, payload):
    if header[:SLOT] == MARKER:
        raise Broken
    return relay_seal(direction, header, payload)


def relay_speak_joined(direction, header, payload):
    return relay_wrap(direction, header[:SLOT] + bytes(REST), payload)


# The client. ----------------------------------------------------------------


def client_seal(hops, payload, random, marker=MARKER):
    """Seals for the last of `hops` (1 to 6 of them)."""
    n = len(hops)
    filler = b""
    for i, hop in enumerate(hops, 1):
        filler = xor(filler + bytes(SLOT), hop.forward.z()[-SLOT * i :])
    assert len(random) == SLOT * (MAX_HOPS - n)
    header = marker + random + filler
    for hop in reversed(hops):
        mixed = xor(header, hop.forward.z())
        assert mixed[REST:] == bytes(SLOT), "the filler closes every header"
        tag, payload = hop.forward.seal(payload, mixed[:REST])
        header = tag + mixed[:REST]
    for hop in hops:
        hop.forward.advance()
    return header, payload


def client_try(hops, header, payload):
    """Opens a cell as though the last of `hops` spoke it. Gives X of that hop and the payload."""
    # What each hop's rest was, in the slots that fell off on the way: it follows
    # from the streams alone, with zeros for the tags, which never get there.
    lost, x = {}, bytes(HEADER)
    for k in range(len(hops), 0, -1):
        rest = xor(x, hops[k - 1].backward.z())[:REST]
        lost[k] = rest[REST - SLOT * (k - 1) :]
        x = MARKER + rest
    tag, rest = header[:SLOT], header[SLOT:]
    for k, hop in enumerate(hops, 1):
        rest = rest[: REST - len(lost[k])] + lost[k]
        payload = hop.backward.open(tag, payload, rest)
        x = xor(rest, hop.backward.z()[:REST])
        tag, rest = x[:SLOT], x[SLOT:] + bytes(SLOT)
    return x, payload


def client_open(hops, header, payload, end=None):
    """Gives the number of the hop that spoke (from 1; 0: the far end) and the payload."""
    for spoke in range(len(hops), 0, -1):
        try:
            x, opened = client_try(hops[:spoke], header, payload)
        except Broken:
            continue
        known = x[: SLOT * (7 - spoke)]
        who = spoke
        if known[:SLOT] != MARKER:
            if end is None or spoke < len(hops):
                continue
            opened, who = end.open_cell(known[:SLOT], opened), 0
        if known[SLOT:] != bytes(len(known) - SLOT):
            continue
        for hop in hops[:spoke]:
            hop.backward.advance()
        return who, opened
    raise Broken
