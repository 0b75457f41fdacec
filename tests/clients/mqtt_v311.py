"""paho-mqtt as an MQTT 3.1.1 device: no properties, so topic and body say it all.

Usage: mqtt_v311.py PORT, with SLMD_TOKEN and SLMD_EXPIRED_TOKEN set. Fails by an assertion.
"""

import json
import os
import queue
import sys

import noted
import paho.mqtt.client as mqtt

PATIENCE = 120
TOKEN = os.environ["SLMD_TOKEN"]
EXPIRED = os.environ["SLMD_EXPIRED_TOKEN"]
MESSAGES = noted.messages([{"role": "user", "content": "Name three colours of the rainbow, please."}])
ASK = {"model": "slm", "messages": MESSAGES, "max_completion_tokens": 16, "temperature": 0}


def connect(port, inbox):
    ready = queue.Queue()
    client = mqtt.Client(
        mqtt.CallbackAPIVersion.VERSION2, client_id="old-device", protocol=mqtt.MQTTv311
    )
    client.on_subscribe = lambda *_: ready.put(None)
    client.on_message = lambda _client, _data, message: inbox.put(message)
    client.connect("127.0.0.1", port, keepalive=30)
    client.loop_start()
    client.subscribe("slm/edge-1/reply/#", qos=1)
    ready.get(timeout=PATIENCE)
    return client


def main():
    inbox = queue.Queue()
    client = connect(int(sys.argv[1]), inbox)

    def ask(name, body, sender="device-1", indent=None, kind="chat/completions"):
        """Returns the answer's branch and its messages."""
        topic = f"slm/edge-1/v1/{kind}/{sender}/{name}"
        client.publish(topic, json.dumps(body, indent=indent), qos=1)
        messages = []
        while True:
            message = inbox.get(timeout=PATIENCE)
            prefix, branch = message.topic.rsplit("/", 1)
            assert prefix == f"slm/edge-1/reply/{sender}/{name}", message.topic
            body = json.loads(message.payload)
            # Who hasn't shown a token that may be answered here is told so.
            stranger = {"verified"} & set(body)
            assert set(body) == {"status", "request_id", "seq", "final", "body"} | stranger, body
            assert not stranger or (body["verified"] is False and body["status"] >= 400), body
            assert body["seq"] == len(messages), body
            assert branch == ("accepted" if body["status"] == 200 else "rejected"), message.topic
            messages.append(body)
            if body["final"]:
                assert len({body["request_id"] for body in messages}) == 1
                return branch, messages

    def rejected(name, status, code, body, sender="device-1"):
        branch, messages = ask(name, body, sender)
        assert branch == "rejected" and len(messages) == 1, messages
        error = messages[0]["body"]["error"]
        assert (messages[0]["status"], error["code"]) == (status, code), messages

    signed = {**ASK, "authorization": f"Bearer {TOKEN}"}
    branch, (whole,) = ask("1", signed)
    assert branch == "accepted", whole
    text = whole["body"]["choices"][0]["message"]["content"]
    assert text and whole["body"]["object"] == "chat.completion", whole

    branch, chunks = ask("2", {**signed, "stream": True})
    assert branch == "accepted" and len(chunks) > 4, chunks
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["body"]["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == text

    rejected("3", 401, "token_missing", ASK)
    rejected("4", 401, "expired", {**ASK, "authorization": f"Bearer {EXPIRED}"})
    rejected("5", 401, "proof_unsupported", {**ASK, "authorization": f"DPoP {TOKEN}"})
    rejected("6", 403, "topic_mismatch", signed, sender="device-2")
    rejected("7", 400, "invalid_parameter", {**signed, "temperature": 3})

    # The same id and question, spelled another way.
    _, (again,) = ask("1", signed, indent=2)
    assert again == whole, "a repeat is answered from the first run"
    _, (other,) = ask("1", {**signed, "max_completion_tokens": 4})
    assert other["request_id"] != whole["request_id"], "another question isn't a repeat"

    text = {
        "prompt": noted.prompt("The three colours of the flag are"),
        "max_tokens": 8,
        "temperature": 0,
        "authorization": f"Bearer {TOKEN}",
    }
    branch, (whole,) = ask("8", text, kind="completions")
    assert branch == "accepted" and whole["body"]["object"] == "text_completion", whole
    continued = whole["body"]["choices"][0]["text"]
    branch, chunks = ask("9", {**text, "stream": True}, kind="completions")
    assert branch == "accepted" and len(chunks) > 2, chunks
    parts = [choice["text"] for chunk in chunks for choice in chunk["body"]["choices"]]
    assert "".join(parts) == continued != "", (parts, continued)

    client.disconnect()
    client.loop_stop()


main()
