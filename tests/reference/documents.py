"""Directory documents whose signatures and revisions are easy to get wrong (docs/protocol.md, 6.1 to 6.3,
6.6, 6.11, 6.18, 6.20, 6.22).

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


# 6.1.1: descriptors, votes, consensuses and differences.


def version(kind):
    return 2 if kind in (2, 3, 4, 9) else 1


def signed(kind, network, body):
    return b"cepa " + bytes([kind, version(kind)]) + network + body


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
    head = bytes([kind, version(kind)]) + len(body).to_bytes(4, "big") + body
    return head + b"\1" + public(key(signer)) + bytes([algorithm]) + len(blob).to_bytes(2, "big") + blob


# 6.11


def signature_document(network, valid_after, not_after, **wrong):
    consensus = b"no consensus, but signed as one"
    digest = hashlib.sha256(signed(4, network, consensus)).digest()
    inner = certified("oak", "oak voting", not_after, network, 4, consensus)
    body = number(valid_after) + digest + b"\2" + inner
    return digest, document(5, body, "oak", 2, certified("oak", "oak voting", not_after, network, 5, body, **wrong))


# 6.22.1


def endorsement(network, valid_after, author, digest, signers, ordered=True):
    """Signers are (name, voting key or None, not_after): the long-term key itself, or one that it certified."""
    body = number(valid_after) + author + digest
    signatures = []
    for name, voting, not_after in signers:
        if voting:
            algorithm, blob = 2, certified(name, voting, not_after, network, 8, body)
        else:
            algorithm, blob = 1, key(name).sign(signed(8, network, body))
        signatures.append(public(key(name)) + bytes([algorithm]) + len(blob).to_bytes(2, "big") + blob)
    signatures.sort(reverse=not ordered)
    head = bytes([8, 1]) + len(body).to_bytes(4, "big") + body
    return head + bytes([len(signatures)]) + b"".join(signatures)


def endorsements(network, author, valid_after):
    digest = hashlib.sha256(b"a vote").digest()
    oak, elm, ash = ("oak", None, 0), ("elm", None, 0), ("ash", None, 0)

    def of(*signers, network=network, **how):
        return endorsement(network, valid_after, author["identity"], digest, signers, **how).hex()

    return {
        "valid_after": valid_after,
        "author": author["identity"].hex(),
        "digest": digest.hex(),
        "good": of(oak, elm),
        "certified": of(oak, ("elm", "elm voting", valid_after + 1)),
        "expired": of(oak, ("elm", "elm voting", valid_after)),
        "without_author": of(elm),
        "stranger": of(oak, ash),
        "unordered": of(oak, elm, ordered=False),
        "of_another_network": of(oak, elm, network=bytes(32)),
    }


# 6.20.9 and 6.20.10, 6.6.2 and 6.6.5


def toml(kind, network, values):
    pairs = {"format": 1, "kind": kind, "network": network.hex()} | values
    return "".join(f'{n} = "{v}"\n' if isinstance(v, str) else f"{n} = {v}\n" for n, v in pairs.items())


def link_certificate(network, relay, link_key, not_after, signed_key=None, signed_for=None):
    body = public(key(relay)) + (signed_key or link_key) + not_after.to_bytes(8, "big")
    values = {
        "identity": public(key(relay)).hex(),
        "link_key": link_key.hex(),
        "made": not_after - 2_592_000,
        "not_after": not_after,
        "signature": key(relay).sign(signed(6, signed_for or network, body)).hex(),
    }
    return toml("link key certificate", network, values)


def family_membership(network, family, relay, signed_relay=None):
    values = {
        "identity": public(key(relay)).hex(),
        "family": public(key(family)).hex(),
        "signature": key(family).sign(signed(7, network, public(key(signed_relay or relay)))).hex(),
    }
    return toml("family membership", network, values)


def key_files(network):
    link, other = public(key("relay link")), public(key("other link"))
    until = 1_902_592_000
    return {
        "identity": public(key("relay")).hex(),
        "link_key": link.hex(),
        "family": public(key("family")).hex(),
        "not_after": until,
        "certificate": {
            "good": link_certificate(network, "relay", link, until),
            "of_another_key": link_certificate(network, "relay", link, until, signed_key=other),
            "of_itself": link_certificate(network, "relay", public(key("relay")), until),
            "signed_for_another_network": link_certificate(network, "relay", link, until, signed_for=bytes(32)),
        },
        "membership": {
            "good": family_membership(network, "family", "relay"),
            "of_another_relay": family_membership(network, "family", "relay", signed_relay="oak"),
        },
    }


# 6.6


IPV6 = socket.inet_pton(socket.AF_INET6, "2600::7")


def descriptor(network, signer="relay link", family_of="relay", cert_until=1_902_592_000):
    relay, link, family = public(key("relay")), public(key("relay link")), public(key("family"))
    time = cert_until.to_bytes(8, "big")
    cert = b"\1" + key("relay").sign(signed(6, network, relay + link + time))
    membership = b"\1" + key("family").sign(signed(7, network, public(key(family_of))))
    ports = [number(80) + number(80), number(443) + number(443)]
    body = relay + b"\1" + link + number(cert_until) + cert
    body += public(key("onion")) + b"\2" + sequence([ipv4("192.0.2.7", 9001), b"\1" + IPV6 + number(443)])
    # It offers Guard, HSDir and Meet; UDP leaves to port 53 of IPv6 addresses.
    body += number(1_900_000_000) + number(12_345) + number(1 << 4 | 1 << 6 | 1 << 8)
    body += sequence(ports) + sequence([]) + sequence([]) + sequence([number(53) + number(53)])
    body += b"\1" + family + membership + string("vector") + string("0.1.0") + string("operator@example.org")
    body += b"\1" + number(1_900_100_000) + number(1_900_200_000)
    return document(2, body, signer, 1, key(signer).sign(signed(2, network, body)))


# 6.18.9


def permit(network, made, *signers, count=65_536):
    """Signers are (name, voting key or None, not_after), as for endorsements."""
    body = public(key("relay")) + number(made) + number(count) + hashlib.sha256(b"nonce").digest()[:16]
    signatures = []
    for name, voting, not_after in signers:
        if voting:
            algorithm, blob = 2, certified(name, voting, not_after, network, 11, body)
        else:
            algorithm, blob = 1, key(name).sign(signed(11, network, body))
        signatures.append(public(key(name)) + bytes([algorithm]) + len(blob).to_bytes(2, "big") + blob)
    head = bytes([11, 1]) + len(body).to_bytes(4, "big") + body
    return (head + bytes([len(signatures)]) + b"".join(sorted(signatures))).hex()


def permits(network, made):
    oak, elm, ash = ("oak", None, 0), ("elm", None, 0), ("ash", None, 0)
    return {
        "relay": public(key("relay")).hex(),
        "made": made,
        "authority": public(key("oak identity")).hex(),
        "nonce": hashlib.sha256(b"nonce").digest()[:16].hex(),
        "good": permit(network, made, oak),
        "certified": permit(network, made, ("oak", "oak voting", made + 1)),
        "most": permit(network, made, oak, count=16_777_216),
        "expired": permit(network, made, ("oak", "oak voting", made)),
        "stranger": permit(network, made, ash),
        "two_signatures": permit(network, made, oak, elm),
        "unsigned": permit(network, made),
        "too_many_bytes": permit(network, made, oak, count=16_777_217),
        "of_another_network": permit(bytes(32), made, oak),
    }


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
        "endorsement": endorsements(network, oak, valid_after),
        "key_files": key_files(network),
        "permit": permits(network, valid_after),
        "descriptor": {
            "good": descriptor(network).hex(),
            "signed_by_the_identity": descriptor(network, signer="relay").hex(),
            "family_of_another_relay": descriptor(network, family_of="oak").hex(),
            "of_another_network": descriptor(bytes(32)).hex(),
        },
    }
    (OUT / "documents.json").write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
