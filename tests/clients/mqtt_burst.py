"""paho-mqtt as many devices at the same moment: publishes requests in one go and counts what it is told.

Usage: mqtt_burst.py PORT QOS COUNT [CLIENT], with SLMD_TOKEN set, or not. Each request has its own
Correlation Data. Its session outlives connections, the broker's and its own. Prints "published" when
the broker has all of them, and once each is answered a line of JSON: the statuses of each, and
whether all 503 said when to come again.
"""

import json
import os
import sys
import threading

import noted
import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

# 500 answers on a busy machine.
PATIENCE = 240
REQUESTS = "slm/edge-1/v1/chat/completions"
TOKEN = os.environ.get("SLMD_TOKEN", "")
BODY = json.dumps({"messages": noted.messages([{"role": "user", "content": "Hi"}]), "max_tokens": 2})


def properties(kind, **members):
    made = Properties(kind)
    for name, value in members.items():
        setattr(made, name, value)
    return made


class Burst:
    def __init__(self, port, qos, count, client):
        # Its own, so that no burst before it is meant.
        self.qos, self.names = qos, [f"{os.getpid()}-{n}" for n in range(count)]
        self.replies = f"slm/edge-1/reply/{client}"
        self.told = {name: [] for name in self.names}
        self.hopeless = 0
        self.listens, self.done = threading.Event(), threading.Event()
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=f"burst-{client}", protocol=mqtt.MQTTv5
        )
        # What mosquitto takes: it loses messages of QoS 2 beyond.
        self.client.max_inflight_messages_set(20)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = self.connected
        self.client.on_subscribe = lambda *_: self.listens.set()
        self.client.on_message = self.answered
        expiry = properties(PacketTypes.CONNECT, SessionExpiryInterval=600)
        self.client.connect("127.0.0.1", port, clean_start=False, properties=expiry)
        self.client.loop_start()
        assert self.listens.wait(PATIENCE), "no SUBACK"

    def connected(self, client, *_):
        client.subscribe(f"{self.replies}/#", qos=1)

    def publish(self):
        user = [("authorization", f"Bearer {TOKEN}")] if TOKEN else []
        sent = []
        for name in self.names:
            made = properties(
                PacketTypes.PUBLISH,
                ResponseTopic=f"{self.replies}/{name}",
                CorrelationData=name.encode(),
                UserProperty=user,
            )
            sent.append(self.client.publish(REQUESTS, BODY, qos=self.qos, properties=made))
        for info in sent:
            info.wait_for_publish(PATIENCE)
        print("published", flush=True)

    def answered(self, _client, _userdata, message):
        said = dict(message.properties.UserProperty)
        name = message.properties.CorrelationData.decode()
        if said["final"] != "true" or name not in self.told:
            return
        self.told[name].append(int(said["status"]))
        self.hopeless += said["status"] == "503" and int(said.get("retry-after", 0)) < 1
        if all(self.told.values()):
            self.done.set()


def main():
    port, qos, count = (int(arg) for arg in sys.argv[1:4])
    burst = Burst(port, qos, count, sys.argv[4] if len(sys.argv) > 4 else "device-1")
    burst.publish()
    # Where nothing is to be answered, whoever started this ends it.
    burst.done.wait(PATIENCE)
    print(json.dumps({"told": burst.told, "hopeless": burst.hopeless}), flush=True)


main()
