"""A client that breaks MQTT: a Response Topic with a wildcard, written by hand.

No library sends it. Usage: mqtt_wildcard.py PORT, with SLMD_TOKEN set. Fails where the broker
doesn't say what became of the message.
"""

import json
import os
import socket
import sys

import noted

MESSAGES = noted.messages([{"role": "user", "content": "Name three colours of the rainbow, please."}])
ASK = {"model": "slm", "messages": MESSAGES, "max_completion_tokens": 4, "temperature": 0}


def text(value):
    data = value.encode()
    return len(data).to_bytes(2, "big") + data


def varint(number):
    out = bytearray()
    while True:
        number, digit = divmod(number, 128)
        out.append(digit | (0x80 if number else 0))
        if not number:
            return bytes(out)


def packet(kind, body):
    return bytes([kind]) + varint(len(body)) + body


def main():
    with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=20) as broker:
        connect = text("MQTT") + bytes([5, 2, 0, 60, 0]) + text("wild")
        broker.sendall(packet(0x10, connect))
        assert broker.recv(100)[0] == 0x20
        token = os.environ["SLMD_TOKEN"]
        for topic in ("slm/edge-1/reply/device-1/+", "slm/edge-1/reply/device-1/#"):
            properties = b"\x08" + text(topic)
            properties += b"\x26" + text("authorization") + text(f"Bearer {token}")
            body = text("slm/edge-1/v1/chat/completions") + (1).to_bytes(2, "big")
            body += varint(len(properties)) + properties + json.dumps(ASK).encode()
            broker.sendall(packet(0x32, body))
            answer = broker.recv(100)
            # Closed, DISCONNECT, or PUBACK.
            assert not answer or answer[0] in (0xE0, 0x40), answer
            if not answer or answer[0] == 0xE0:
                return


main()
