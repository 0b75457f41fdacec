"""Asks slmd one question over MQTT 5, with paho-mqtt. ../README.md says why each step is as it is.

Usage: device.py [--device-key X] mqtts://HOST:PORT DEVICE CLIENT QUESTION
DEVICE is the appliance's name; CLIENT the client id (`azp`) in the token, and the broker's user name.
X is the appliance's public key, as `slmd device id` shows it: what it hasn't signed counts for nothing.

SLMD_TOKEN      the access token
SLMD_DPOP_KEY   a PEM file with the P-256 key that the token is bound to, where it is bound to one
MQTT_PASSWORD, MQTT_CA_FILE   for the broker

Prints the answer as it comes; fails with the refusal when there is none.
"""

import argparse
import base64
import hashlib
import json
import os
import queue
import sys
import time
import urllib.parse
import uuid

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

DEADLINE = 120  # seconds in all
SILENCE = 30  # seconds after which the question is put again
TRIES = 10


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def message_hash(topic, reply, correlation, payload):
    """What a proof, and the signature of an answer, name the question by."""
    parts = (topic.encode(), reply.encode(), correlation, payload)
    return encode(hashlib.sha256(b"".join(len(p).to_bytes(4, "big") + p for p in parts)).digest())


def proof(key, device, token, topic, msh, nonce):
    """A DPoP proof for this message and no other."""
    import jwt  # PyJWT[crypto]

    claims = {
        "jti": str(uuid.uuid4()),
        "iat": int(time.time()),
        "htm": "PUBLISH",
        "htu": f"mqtt://{device}/{topic}",
        "ath": encode(hashlib.sha256(token.encode()).digest()),
        "msh": msh,
        "nonce": nonce,
    }
    numbers = key.public_key().public_numbers()
    x, y = (encode(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
    jwk = {"kty": "EC", "crv": "P-256", "x": x, "y": y}
    return jwt.encode(claims, key, algorithm="ES256", headers={"typ": "dpop+jwt", "jwk": jwk})


class Signatures:
    """Tells what the appliance has said of this question from what somebody else has."""

    def __init__(self, x, device, msh):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        self.key = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(x + "="))
        self.bound, self.answer = {"device": device, "msh": msh}, None

    def good(self, user, payload):
        import jwt  # PyJWT[crypto]

        try:
            signed = jwt.decode_complete(user["signature"], self.key, algorithms=["EdDSA"])
        except (KeyError, jwt.InvalidTokenError):
            return False
        claims = signed["payload"]
        answer = claims.get("answer")
        # All that it says stands in the signature, and nothing else does.
        said = {name: value for name, value in user.items() if name != "signature"}
        said |= {"body": encode(hashlib.sha256(payload).digest()), "answer": answer, **self.bound}
        if signed["header"].get("typ") != "slmd-answer+jwt" or claims != said:
            return False
        if user["seq"] == "0" and user["status"] == "200":
            self.answer = answer
        return user["seq"] == "0" or answer == self.answer


class Answer:
    """Puts the pieces of a stream together, and prints what is new."""

    def __init__(self):
        self.text, self.shown, self.next, self.gap = "", "", 0, False

    def take(self, seq, body):
        if seq == 0:  # it begins, or begins again
            self.text, self.next, self.gap = "", 0, False
        if seq < self.next:
            return  # the broker sent it twice
        self.gap |= seq > self.next
        self.next = seq + 1
        for choice in body["choices"]:
            self.text += choice["delta"].get("content") or ""
        if self.text.startswith(self.shown):
            print(self.text[len(self.shown) :], end="", flush=True)
            self.shown = self.text
        elif not self.shown.startswith(self.text):  # another run, which found other words
            print("\n" + self.text, end="", flush=True)
            self.shown = self.text


def connect(url, client, topics, inbox):
    device = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=client, protocol=mqtt.MQTTv5)
    if url.scheme == "mqtts":
        device.tls_set(ca_certs=os.environ.get("MQTT_CA_FILE"))
    if "MQTT_PASSWORD" in os.environ:
        device.username_pw_set(client, os.environ["MQTT_PASSWORD"])
    ready = queue.Queue()

    # Again after each reconnect, of which paho takes care; so that no answer is lost meanwhile, the
    # broker keeps the session for as long as one can come.
    def subscribe(_client, _data, _flags, code, _properties):
        if code.is_failure:
            return ready.put([code])
        return device.subscribe([(topic, 1) for topic in topics])

    device.on_connect = subscribe
    device.on_subscribe = lambda _client, _data, _mid, codes, _properties: ready.put(codes)
    device.on_message = lambda _client, _data, message: inbox.put(message)
    session = Properties(PacketTypes.CONNECT)
    session.SessionExpiryInterval = DEADLINE
    device.connect(url.hostname, url.port, clean_start=False, properties=session)
    device.loop_start()
    for code in ready.get(timeout=SILENCE):
        if code.is_failure:
            sys.exit(f"the broker refuses it: {code}")
    return device


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device-key", metavar="X")
    for name in ("url", "device", "client", "question"):
        parser.add_argument(name)
    asked = parser.parse_args()
    url, device, client = urllib.parse.urlsplit(asked.url), asked.device, asked.client
    token, key, nonce = os.environ["SLMD_TOKEN"], None, None
    topic, nonces = f"slm/{device}/v1/chat/completions", f"slm/{device}/nonce"
    correlation = uuid.uuid4().bytes
    reply = f"slm/{device}/reply/{client}/{correlation.hex()}"
    ask = {"messages": [{"role": "user", "content": asked.question}], "stream": True}
    ask |= {"temperature": 0, "max_completion_tokens": 64}
    payload, inbox = json.dumps(ask).encode(), queue.Queue()
    msh = message_hash(topic, reply, correlation, payload)
    signatures = Signatures(asked.device_key, device, msh) if asked.device_key else None
    if "SLMD_DPOP_KEY" in os.environ:
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        with open(os.environ["SLMD_DPOP_KEY"], "rb") as file:
            key = load_pem_private_key(file.read(), password=None)
    broker = connect(url, client, [reply, nonces] if key else [reply], inbox)
    answer, tries, end = Answer(), 0, time.monotonic() + DEADLINE
    due = time.monotonic() + (2 if key else 0)  # for the retained nonce; without one we are told it
    while time.monotonic() < end and tries < TRIES:
        if time.monotonic() >= due:
            # The same Correlation Data each time: it is joined or answered again, never run twice.
            properties = Properties(PacketTypes.PUBLISH)
            properties.ResponseTopic, properties.CorrelationData = reply, correlation
            properties.MessageExpiryInterval = max(1, int(end - time.monotonic()))
            if key:
                made = proof(key, device, token, topic, msh, nonce)
                properties.UserProperty = [("authorization", f"DPoP {token}"), ("dpop", made)]
            else:
                properties.UserProperty = ("authorization", f"Bearer {token}")
            broker.publish(topic, payload, qos=1, properties=properties)
            tries, due = tries + 1, time.monotonic() + SILENCE
        try:
            message = inbox.get(timeout=max(0.0, min(due, end) - time.monotonic()))
        except queue.Empty:
            continue
        if message.topic not in (reply, nonces):
            continue  # of an earlier question, kept by the session
        if message.topic == nonces:
            nonce, due = json.loads(message.payload)["nonce"], due if tries else 0.0
            continue
        user = dict(getattr(message.properties, "UserProperty", []))
        if signatures and not signatures.good(user, message.payload):
            print(f"dropped: not signed by {device} as an answer to this", file=sys.stderr)
            continue
        body = json.loads(message.payload)
        if user.get("verified") == "false" and answer.next:
            continue  # told to somebody else: ours runs
        due = time.monotonic() + SILENCE
        if user["status"] == "200":
            answer.take(int(user["seq"]), body)
            if user["final"] == "true" and not answer.gap:
                print()
                broker.disconnect()
                return broker.loop_stop()
            due = 0.0 if user["final"] == "true" else due  # the whole answer is told again
        elif "dpop-nonce" in user:
            nonce, due = user["dpop-nonce"], 0.0
        elif user["status"] in ("429", "503"):
            due = time.monotonic() + int(user["retry-after"])
        else:
            sys.exit(body["error"]["message"])
    sys.exit("no answer in time")


if __name__ == "__main__":
    main()
