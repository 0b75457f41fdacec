"""A broker that nobody should trust, between a device and slmd: two real brokers and what is done
between them.

Usage: between.py DEVICES_PORT SLMD_PORT. Prints "ready" once requests are heard. Hands the first
request on, and with it, as whoever reads it can, another one with the same token; lets the answer be
told a second time; and then hands the answer back, each message of it after many that aren't its
own. Prints how many those were, by what is wrong with them, as JSON.
"""

import collections
import copy
import json
import queue
import sys

import jwt
import paho.mqtt.client as mqtt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PATIENCE = 120
REQUESTS, REPLIES = "slm/edge-1/v1/#", "slm/edge-1/reply/#"
STRANGER = Ed25519PrivateKey.generate()


def connect(port, topic):
    """A client, and the messages that it hears there."""
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    heard, ready = queue.Queue(), queue.Queue()
    client.on_message = lambda _client, _data, message: heard.put(message)
    client.on_subscribe = lambda *_: ready.put(None)
    client.connect("127.0.0.1", int(port))
    client.loop_start()
    client.subscribe(topic, qos=1)
    ready.get(timeout=PATIENCE)
    return client, heard


def publish(client, topic, payload, properties):
    client.publish(topic, payload, qos=1, properties=properties).wait_for_publish(PATIENCE)


def whole(heard):
    """The messages of one answer."""
    pieces = [heard.get(timeout=PATIENCE)]
    while dict(pieces[-1].properties.UserProperty)["final"] == "false":
        pieces.append(heard.get(timeout=PATIENCE))
    return pieces


def forged(payload):
    """The same message with other words."""
    body = json.loads(payload)
    for choice in body.get("choices", []):
        choice["delta"]["content"] = "Forged. "
    return json.dumps(body).encode()


def foreign(user):
    """A signature by somebody else, under the appliance's name."""
    header = jwt.get_unverified_header(user["signature"])
    claims = jwt.decode(user["signature"], options={"verify_signature": False})
    kept = {"typ": header["typ"], "kid": header["kid"]}
    return jwt.encode(claims, STRANGER, algorithm="EdDSA", headers=kept)


def wrong(piece, again, another):
    """What looks like this message and isn't: its fault, user properties and payload."""
    user, payload = dict(piece.properties.UserProperty), piece.payload
    seq, last = int(user["seq"]), user["final"] == "true"
    yield "unsigned", {k: v for k, v in user.items() if k != "signature"}, forged(payload)
    yield "changed", user, forged(payload)
    yield "foreign", {**user, "signature": foreign(user)}, payload
    yield "reordered", {**user, "seq": str(seq + 1)}, payload
    yield "cut", {**user, "final": "false" if last else "true"}, payload
    yield "added", {**user, "verified": "false"}, payload
    swapped = another[min(seq, len(another) - 1)]
    yield "another's", dict(swapped.properties.UserProperty), swapped.payload
    if seq > 0:
        mixed = again[min(seq, len(again) - 1)]
        yield "mixed", dict(mixed.properties.UserProperty), mixed.payload


def main():
    devices, requests = connect(sys.argv[1], REQUESTS)
    slmd, answers = connect(sys.argv[2], REPLIES)
    print("ready", flush=True)
    asked = requests.get(timeout=PATIENCE)
    publish(slmd, asked.topic, asked.payload, asked.properties)
    own = whole(answers)
    publish(slmd, asked.topic, asked.payload, asked.properties)
    again = whole(answers)
    other = copy.copy(asked.properties)
    other.CorrelationData = b"another"
    publish(slmd, asked.topic, asked.payload, other)
    another = whole(answers)

    faults = collections.Counter()
    for piece in own:
        for fault, user, payload in wrong(piece, again, another):
            properties = Properties(PacketTypes.PUBLISH)
            properties.CorrelationData = piece.properties.CorrelationData
            properties.UserProperty = list(user.items())
            publish(devices, piece.topic, payload, properties)
            faults[fault] += 1
        publish(devices, piece.topic, piece.payload, piece.properties)
    print(json.dumps(faults), flush=True)
    for client in (devices, slmd):
        client.disconnect()
        client.loop_stop()


if __name__ == "__main__":
    main()
