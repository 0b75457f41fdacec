"""paho-mqtt as an MQTT 5 device: whole and streamed answers, and what is refused.

Usage: mqtt_v5.py PORT, with SLMD_TOKEN set. Fails by an assertion; prints one line of JSON with
what the answers held.
"""

import json
import os
import queue
import sys

import noted
import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PATIENCE = 120
REQUESTS = "slm/edge-1/v1/chat/completions"
TEXTS = "slm/edge-1/v1/completions"
REPLIES = "slm/edge-1/reply/device-1"
TOKEN = os.environ.get("SLMD_TOKEN", "")
MESSAGES = noted.messages([{"role": "user", "content": "Name three colours of the rainbow, please."}])
ASK = {"model": "slm", "messages": MESSAGES, "max_completion_tokens": 16, "temperature": 0}


class Device:
    def __init__(self, port):
        self.inbox = queue.Queue()
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id="device-1", protocol=mqtt.MQTTv5
        )
        ready = queue.Queue()
        self.client.on_subscribe = lambda *_: ready.put(None)
        self.client.on_message = lambda _client, _data, message: self.inbox.put(message)
        self.client.connect("127.0.0.1", port, keepalive=30)
        self.client.loop_start()
        self.client.subscribe(f"{REPLIES}/#", qos=1)
        ready.get(timeout=PATIENCE)

    def ask(self, body, correlation, user=(("authorization", f"Bearer {TOKEN}"),), **more):
        """Publishes a request; returns the messages of its answer."""
        properties = Properties(PacketTypes.PUBLISH)
        properties.ResponseTopic = f"{REPLIES}/paho/1"
        properties.CorrelationData = correlation
        properties.ContentType = more.get("content_type", "application/json")
        properties.UserProperty = list(user)
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        topic = more.get("topic", REQUESTS)
        self.client.publish(topic, payload, qos=1, properties=properties)
        messages = []
        while True:
            message = self.inbox.get(timeout=PATIENCE)
            assert message.topic == f"{REPLIES}/paho/1", message.topic
            assert message.qos == 1 and not message.retain
            assert message.properties.CorrelationData == correlation, "echoed verbatim"
            assert message.properties.ContentType == "application/json"
            user = dict(message.properties.UserProperty)
            # Who hasn't shown a token that may be answered here is told so.
            stranger = {"verified"} & set(user)
            assert set(user) == {"status", "request-id", "seq", "final"} | stranger, user
            assert not stranger or (user["verified"] == "false" and user["status"] >= "400"), user
            assert user["seq"] == str(len(messages)), user
            messages.append((user, json.loads(message.payload)))
            if user["final"] == "true":
                assert len({user["request-id"] for user, _ in messages}) == 1
                return messages
            assert user["final"] == "false", user

    def refused(self, status, code, *arguments, **more):
        messages = self.ask(*arguments, **more)
        assert len(messages) == 1, messages
        user, body = messages[0]
        assert (user["status"], body["error"]["code"]) == (str(status), code), messages
        return body["error"]


def whole(device):
    own = (("authorization", f"bearer {TOKEN}"), ("request-id", "paho-whole-1"))
    messages = device.ask(ASK, bytes(range(256)), own)
    assert len(messages) == 1, messages
    user, body = messages[0]
    assert user["status"] == "200" and user["request-id"] == "paho-whole-1", user
    assert body["object"] == "chat.completion" and body["model"] == "slm", body
    choice = body["choices"][0]
    assert choice["finish_reason"] in ("stop", "length"), body
    return choice["message"]["content"], body["usage"]


def streamed(device):
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    messages = device.ask({**ASK, **stream}, b"\x00stream\xff")
    assert all(user["status"] == "200" for user, _ in messages)
    chunks = [chunk for _, chunk in messages]
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant", chunks[0]
    assert len(chunks) > 4, "sixteen tokens come in more than one piece"
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert choices[-1]["finish_reason"] in ("stop", "length"), choices[-1]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    return text, chunks[-1]["usage"]


def completed(device):
    """The topic is the path: OpenAI's older API, on a topic of its own."""
    prompt = noted.prompt("The colours of the rainbow are red, orange,")
    ask = {"model": "slm", "prompt": prompt, "max_tokens": 8, "temperature": 0}
    ((user, body),) = device.ask(ask, b"text", topic=TEXTS)
    assert user["status"] == "200" and body["object"] == "text_completion", body
    messages = device.ask({**ask, "stream": True}, b"text stream", topic=TEXTS)
    text = "".join(chunk["choices"][0]["text"] for _, chunk in messages)
    assert text and text == body["choices"][0]["text"], messages
    error = device.refused(400, "unsupported_parameter", {**ask, "echo": True}, b"e", topic=TEXTS)
    assert error["param"] == "echo", error


def refusals(device):
    def error(status, code, body, **more):
        return device.refused(status, code, body, code.encode(), **more)

    error(400, "bad_request", b'{"model": "slm", "messages": [')
    error(400, "bad_request", b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}')
    error(400, "bad_request", b"")
    error(413, "body_too_large", json.dumps({**ASK, "user": "x" * 300_000}).encode())
    error(415, "unsupported_media_type", ASK, content_type="text/plain")
    assert error(400, "invalid_parameter", {**ASK, "temperature": 3})["param"] == "temperature"
    error(404, "endpoint_unknown", {**ASK, "model": "gpt-4o"})
    inside = {**ASK, "authorization": f"Bearer {TOKEN}"}
    assert error(400, "unsupported_parameter", inside)["param"] == "authorization"

    error(401, "token_missing", ASK, user=())
    error(401, "token_missing", ASK, user=(("authorization", "Basic YTpi"),))
    error(401, "token_malformed", ASK, user=(("authorization", "Bearer a.b"),))
    twice = (("authorization", f"Bearer {TOKEN}"), ("authorization", f"Bearer {TOKEN}"))
    error(400, "bad_request", ASK, user=twice)
    proof = (("authorization", f"DPoP {TOKEN}"), ("dpop", "a.b.c"))
    error(401, "proof_invalid", ASK, user=proof)
    error(401, "proof_missing", ASK, user=proof[:1])


def main():
    device = Device(int(sys.argv[1]))
    text, usage = whole(device)
    assert (text, usage) == streamed(device), "a greedy answer is the same streamed"
    completed(device)
    refusals(device)
    device.client.disconnect()
    device.client.loop_stop()
    print(json.dumps({"text": text, "usage": usage}))


main()
