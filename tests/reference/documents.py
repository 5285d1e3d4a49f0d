"""Directory documents whose signatures and revisions are easy to get wrong (docs/protocol.md, 6.1 to 6.3, 6.11).

Writes common/testdata/documents.json. Run it alone: nothing here needs the other files.
"""

import hashlib
import json
import pathlib
import socket

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

OUT = pathlib.Path(__file__).parents[2] / "common" / "testdata"


def key(name):
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"cepa document " + name.encode()).digest())


def public(secret):
    return secret.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


# 6.1.6


def number(value):
    out = b""
    while value >= 128:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def string(value):
    value = value.encode() if isinstance(value, str) else value
    return number(len(value)) + value


def sequence(items):
    return number(len(items)) + b"".join(items)


def ipv4(host, port):
    return b"\0" + socket.inet_aton(host) + number(port)


# 6.2


def signed(kind, network, body):
    return b"cepa " + bytes([kind, 1]) + network + body


# 6.3


def authority(name, port):
    return {
        "name": name,
        "identity": public(key(name + " identity")),
        "signing_key": public(key(name)),
        "port": port,
    }


def signed_part(name, authorities, params, succession=None):
    encoded = [
        string(a["name"]) + a["identity"] + a["signing_key"] + sequence([ipv4("192.0.2.1", a["port"])])
        for a in authorities
    ]
    pairs = [string(n) + number(v) for n, v in sorted(params.items())]
    part = string(name) + sequence(encoded) + sequence([]) + sequence(pairs)
    if succession:
        network, revision, effective_after = succession
        part += network + number(revision) + number(effective_after)
    return part


def network_file(name, authorities, params, signers, succession=None):
    authorities = sorted(authorities, key=lambda a: a["identity"])
    part = signed_part(name, authorities, params, succession)
    if succession:
        network = succession[0]
    else:
        network = hashlib.sha256(b"cepa network" + bytes([1, 1]) + part).digest()
    lines = ["format = 1", f'name = "{name}"']
    if succession:
        lines += [f'id = "{network.hex()}"', f"revision = {succession[1]}", f"effective_after = {succession[2]}"]
    lines += ["[params]"] + [f"{n} = {v}" for n, v in params.items()]
    for a in authorities:
        lines += ["[[authority]]", f'name = "{a["name"]}"', f'identity = "{a["identity"].hex()}"']
        lines += [f'signing_key = "{a["signing_key"].hex()}"', f'addresses = ["192.0.2.1:{a["port"]}"]']
    for signer in signers:
        signature = key(signer).sign(signed(1, network, part))
        lines += ["[[signature]]", f'signing_key = "{public(key(signer)).hex()}"', 'algorithm = "ed25519"']
        lines += [f'signature = "{signature.hex()}"']
    return network, "\n".join(lines) + "\n"


# 6.1.9


def certified(signer, voting, not_after, network, kind, body, cert_network=None):
    time = not_after.to_bytes(8, "big")
    cert_body = public(key(signer)) + public(key(voting)) + time
    cert = key(signer).sign(signed(10, cert_network or network, cert_body))
    return public(key(voting)) + time + cert + key(voting).sign(signed(kind, network, body))


def document(kind, body, signer, algorithm, blob):
    head = bytes([kind, 1]) + len(body).to_bytes(4, "big") + body
    return head + b"\1" + public(key(signer)) + bytes([algorithm]) + len(blob).to_bytes(2, "big") + blob


# 6.11


def signature_document(network, valid_after, not_after, **wrong):
    consensus = b"no consensus, but signed as one"
    digest = hashlib.sha256(signed(4, network, consensus)).digest()
    inner = certified("oak", "oak voting", not_after, network, 4, consensus)
    body = number(valid_after) + digest + b"\2" + inner
    return digest, document(5, body, "oak", 2, certified("oak", "oak voting", not_after, network, 5, body, **wrong))


def main():
    oak, elm, ash = authority("oak", 9001), authority("elm", 9002), authority("ash", 9003)
    params = {"vote_interval_seconds": 1800}
    network, founding = network_file("vectors", [oak, elm], params, ["oak", "elm"])
    next_params = params | {"subnet_rule": 0}
    _, revision = network_file(
        "vectors", [oak, ash], next_params, ["oak", "elm", "ash"], (network, 1, 1_900_000_000)
    )
    valid_after = 1_899_999_000
    digest, good = signature_document(network, valid_after, valid_after + 1)
    _, expired = signature_document(network, valid_after, valid_after)
    _, foreign = signature_document(network, valid_after, valid_after + 1, cert_network=bytes(32))
    value = {
        "network_id": network.hex(),
        "founding": founding,
        "revision": revision,
        "signature": {
            "valid_after": valid_after,
            "digest": digest.hex(),
            "good": good.hex(),
            "expired": expired.hex(),
            "foreign_certificate": foreign.hex(),
        },
    }
    (OUT / "documents.json").write_text(json.dumps(value, indent=1) + "\n")


main()
