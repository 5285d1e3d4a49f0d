"""The circuit handshake (docs/protocol.md, chapter 3)."""

import hashlib
import hmac
import struct

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from kyber_py.ml_kem import ML_KEM_768

from layers import AES, CHACHA, hkdf_expand, hkdf_extract

NAME = b"cepa-circ-1"
SUITE = {CHACHA: b"\x01", AES: b"\x02"}


def sha(data):
    return hashlib.sha256(data).digest()


def public(secret):
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def agree(secret, point):
    return X25519PrivateKey.from_private_bytes(secret).exchange(
        X25519PublicKey.from_public_bytes(point)
    )


def seal(key, ad, params):
    return ChaCha20Poly1305(key).encrypt(bytes(12), params, ad)


def lengthed(data):
    return struct.pack(">H", len(data)) + data


def client_params(lowest=1, highest=1):
    return struct.pack(">HH12x", lowest, highest)


def relay_params(version=1, cells=1024, interval=32, stream=262144):
    return struct.pack(">HHHI6x", version, cells, interval, stream)


def context(suite, network, relay, b_public):
    return NAME + SUITE[suite] + network + relay + b_public


def client_message(suite, network, relay, b_public, x, ek, params):
    t1 = sha(context(suite, network, relay, b_public) + public(x) + ek)
    prk = hkdf_extract(NAME, agree(x, b_public))
    k1 = hkdf_expand(prk, b"client" + t1, 32)
    c1 = seal(k1, t1, params)
    return {"t1": t1, "k1": k1, "c1": c1, "message": b_public + public(x) + ek + c1}


def schedule(xy, xb, kem, t2):
    prk = hkdf_extract(NAME, xy + xb + kem)
    out = {"prk": prk}
    for label in ["relay params", "relay auth"] + [
        f"{way} {what}" for way in ("forward", "backward") for what in ("aead", "header", "chain")
    ]:
        out[label] = hkdf_expand(prk, label.encode() + t2, 32)
    return out


def relay_reply(first, b, y, x_public, ek, m, params, forge=None):
    """`forge` changes C2 before it is authenticated, for a broken case."""
    kem, ct = ML_KEM_768._encaps_internal(ek, m)
    t2 = sha(first["t1"] + lengthed(first["c1"]) + public(y) + ct)
    keys = schedule(agree(y, x_public), agree(b, x_public), kem, t2)
    c2 = seal(keys["relay params"], t2, params)
    if forge:
        c2 = forge(c2)
    auth = hmac.new(keys["relay auth"], t2 + lengthed(c2), hashlib.sha256).digest()
    return {"kem": kem, "ct": ct, "t2": t2, "keys": keys, "reply": public(y) + ct + c2 + auth}
