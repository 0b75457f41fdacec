"""Writes deploy/mqtt/dpop-vectors.json, from deploy/mqtt/README.md's text alone: nothing of slmd is in it.

Usage: dpop_vectors.py > deploy/mqtt/dpop-vectors.json, in the tests' Python environment. Keys, and so
all signatures, are new each time.
"""

import hashlib
import json

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from jwt.algorithms import ECAlgorithm, OKPAlgorithm

NOW = 1_795_500_000
DEVICE = "edge-1"
NONCES = ["rqjfr-WMe6VvYkcjrSCF2w", "Zm9ybWVyLW5vbmNlLTAwMQ"]
CHAT = f"slm/{DEVICE}/v1/chat/completions"
REPLY = f"slm/{DEVICE}/reply/device-1/1"
BODY = '{"messages":[{"role":"user","content":"What is the capital of France?"}]}'
ABOUT = (
    "DPoP proofs over MQTT as deploy/mqtt/README.md specifies them, good and bad. Each case is a message "
    "to the device `device` at the time `now`, while it takes `nonces` (the first is the current one), with "
    "the token of the key that it names. `correlation_data` and `hashed`, the bytes under `msh`, are in "
    "hexadecimal; null is absent. `check` is how the refusal's detail begins. The keys are of no other use."
)


def encode(data):
    return jwt.utils.base64url_encode(data).decode()


def sha256(data):
    return encode(hashlib.sha256(data).digest())


class Key:
    """A client's key, and its token."""

    def __init__(self, alg, private, kind):
        self.alg, self.private = alg, private
        self.whole = json.loads(kind.to_jwk(private))
        names = ("crv", "kty", "x", "y")
        self.public = {name: self.whole[name] for name in names if name in self.whole}
        self.whole = {**self.public, "d": self.whole["d"]}
        # RFC 7638: the members in order, without white space.
        canonical = json.dumps(self.public, separators=(",", ":"), sort_keys=True)
        self.thumbprint = sha256(canonical.encode())

    def token(self, issuer):
        claims = {
            "iss": "https://keycloak.test/realms/dev",
            "sub": "7d3c1d9e-0b1f-4c57-9e5d-2f6a4f4b8f10",
            "azp": "device-1",
            "aud": ["slm"],
            "typ": "DPoP",
            "jti": f"trrtcc:{self.alg}",
            "iat": NOW - 300,
            "exp": NOW + 3300,
            "cnf": {"jkt": self.thumbprint},
            "resource_access": {"slm": {"roles": ["read"]}},
        }
        headers = {"typ": "JWT", "kid": "realm-key"}
        return jwt.encode(claims, issuer.private, algorithm=issuer.alg, headers=headers)


def p256():
    return Key("ES256", ec.generate_private_key(ec.SECP256R1()), ECAlgorithm)


def ed():
    return Key("EdDSA", ed25519.Ed25519PrivateKey.generate(), OKPAlgorithm)


ISSUER = p256()
KEYS = {"p256": p256(), "ed25519": ed()}
TOKENS = {name: key.token(ISSUER) for name, key in KEYS.items()}


def message(topic=CHAT, response_topic=REPLY, correlation_data=b"c-1", payload=BODY):
    return {
        "topic": topic,
        "response_topic": response_topic,
        "correlation_data": correlation_data,
        "payload": payload,
    }


def hashed(message, order="big"):
    parts = (
        message["topic"].encode(),
        (message["response_topic"] or "").encode(),
        message["correlation_data"] or b"",
        message["payload"].encode(),
    )
    return b"".join(len(part).to_bytes(4, order) + part for part in parts)


def case(name, outcome="accepted", check=None, *, key="p256", of=None, made_for=None, signer=None, header=None, spoil=None, **claims):
    """`made_for`: the message that the proof is for, where it isn't the one that it comes with."""
    of = of or message()
    made_for = made_for or of
    holder = signer or KEYS[key]
    says = {
        "jti": name.replace(" ", "-")[:64],
        "iat": NOW - 2,
        "htm": "PUBLISH",
        "htu": f"mqtt://{DEVICE}/{made_for['topic']}",
        "ath": sha256(TOKENS[key].encode()),
        "msh": sha256(hashed(made_for)),
        "nonce": NONCES[0],
        **claims,
    }
    says = {name: value for name, value in says.items() if value is not None}
    headers = {"typ": "dpop+jwt", "jwk": holder.public, **(header or {})}
    proof = jwt.encode(says, holder.private, algorithm=holder.alg, headers=headers)
    data = of["correlation_data"]
    return {
        "name": name,
        "key": key,
        "message": {**of, "correlation_data": None if data is None else data.hex()},
        "hashed": hashed(of).hex(),
        "proof": (spoil or str)(proof),
        "outcome": outcome,
        **({"check": check} if check else {}),
    }


def invalid(name, check, **more):
    return case(name, "proof_invalid", check, **more)


def other_signature(proof):
    start, signature = proof.rsplit(".", 1)
    return f"{start}.{encode(bytes(reversed(jwt.utils.base64url_decode(signature))))}"


def cases():
    spaced = message(payload='{ "messages": [{"role": "user", "content": "Où est Zürich? \u2603"}] }\n')
    yield case("a chat")
    yield case("an Ed25519 key", key="ed25519")
    yield case("no Correlation Data", of=message(correlation_data=None))
    yield case("Correlation Data that is no text", of=message(correlation_data=bytes([0, 255, 10, 128])))
    yield case("a payload as it is sent, white space and UTF-8", of=spaced)
    example = message(response_topic=f"slm/{DEVICE}/reply/dev/1", correlation_data=b"c", payload="{}")
    yield case("the example of README.md", of=example)
    yield case("a text completion", of=message(topic=f"slm/{DEVICE}/v1/completions", payload='{"prompt":"One, two,"}'))
    cancel = message(topic=f"{CHAT}/cancel", response_topic=None, payload="")
    yield case("a cancel, without Response Topic and payload", of=cancel)
    yield case("the nonce before the current one", nonce=NONCES[1])
    yield case("an iat of nine minutes ago, which the nonce dates", iat=NOW - 540)
    yield case("an iat with a fraction", iat=NOW - 2.5)
    yield case("htu as URIs compare", htu=f"MQTT://EDGE-1:1883/{CHAT}")

    yield invalid("made for another payload", "msh", made_for=message(payload=BODY + "\n"))
    yield invalid("made for other Correlation Data", "msh", made_for=message(correlation_data=b"c-2"))
    yield invalid("made for another Response Topic", "msh", made_for=message(response_topic=f"{REPLY}2"))
    shifted = message(response_topic=f"{REPLY}c", correlation_data=b"-1")
    yield invalid("a byte moved from one part to the next", "msh", made_for=shifted)
    plain = b"".join((CHAT.encode(), REPLY.encode(), b"c-1", BODY.encode()))
    yield invalid("msh without the lengths", "msh", msh=sha256(plain))
    yield invalid("msh with little-endian lengths", "msh", msh=sha256(hashed(message(), "little")))
    yield invalid("msh in hexadecimal", "msh", msh=hashlib.sha256(hashed(message())).hexdigest())
    yield invalid("msh with padding", "msh", msh=sha256(hashed(message())) + "=")
    yield invalid("no msh", "msh", msh=None)
    yield invalid("made for a cancel", "htu", made_for={**message(), "topic": cancel["topic"]})
    yield invalid("made for another device", "htu", htu=f"mqtt://edge-2/{CHAT}")
    yield invalid("htu with the broker's scheme", "htu", htu=f"mqtts://{DEVICE}/{CHAT}")
    yield invalid("htu without the topic", "htu", htu=f"mqtt://{DEVICE}/")
    yield invalid("htm of HTTP", "htm", htm="POST")
    yield invalid("made for another token", "ath", ath=sha256(TOKENS["ed25519"].encode()))
    yield invalid("no ath", "ath", ath=None)
    yield invalid("another's key", "jwk", signer=p256())
    yield invalid("the private key in the header", "jwk", header={"jwk": KEYS["p256"].whole})
    yield invalid("typ of a token", "typ", header={"typ": "JWT"})
    yield invalid("no jti", "jti", jti=None)
    yield invalid("an iat in the future", "iat", iat=NOW + 60)
    yield invalid("an iat that is text", "iat", iat=str(NOW))
    yield invalid("another signature", "signature", spoil=other_signature)
    yield case("no nonce", "use_dpop_nonce", "nonce", nonce=None)
    yield case("an old nonce", "use_dpop_nonce", "nonce", nonce="b2xkLW5vbmNlLW5vLW1vcmU")


def main():
    jwks = {"keys": [{**ISSUER.public, "kid": "realm-key", "alg": "ES256", "use": "sig"}]}
    keys = {
        name: {"jwk": key.whole, "jkt": key.thumbprint, "token": TOKENS[name]}
        for name, key in KEYS.items()
    }
    file = {
        "about": ABOUT,
        "device": DEVICE,
        "now": NOW,
        "nonces": NONCES,
        "realm_keys": jwks,
        "keys": keys,
        "cases": list(cases()),
    }
    print(json.dumps(file, indent=1, ensure_ascii=False))


main()
