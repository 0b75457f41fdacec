"""paho-mqtt as a device that tries what a broker with deploy/mqtt/acl shouldn't let it do.

Usage: mqtt_acl.py PORT CA_FILE USER TOPIC..., with MQTT_PASSWORD set. Connects, without the password
and with another one first, as the appliance by its client id, subscribes to everything, and publishes
a request on each topic. Prints {"connects": [...], "publishes": {topic: reason code}}, and when
standard input ends the topics that it has heard.
"""

import json
import os
import queue
import sys
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PATIENCE = 30
PORT, CA_FILE, USER, *TOPICS = sys.argv[1:]
APPLIANCE = "slmd-edge-1"


def connect(password, events):
    """The client, and with what the broker has answered."""
    client = mqtt.Client(
        mqtt.CallbackAPIVersion.VERSION2, client_id=APPLIANCE, protocol=mqtt.MQTTv5
    )
    client.tls_set(ca_certs=CA_FILE)
    if password:
        client.username_pw_set(USER, password)
    client.on_connect = lambda _c, _d, _f, code, _p: events.put(code)
    client.on_subscribe = lambda *_: events.put(None)
    client.on_publish = lambda _c, _d, _m, code, _p: events.put(code)
    client.connect("localhost", int(PORT), keepalive=30)
    client.loop_start()
    return client, events.get(timeout=PATIENCE).value


def refused(password):
    client, code = connect(password, queue.Queue())
    client.loop_stop()
    return code


def main():
    connects = [refused(None), refused("not-the-password")]
    events, heard = queue.Queue(), []
    client, code = connect(os.environ["MQTT_PASSWORD"], events)
    client.on_message = lambda _client, _data, message: heard.append(message.topic)
    client.subscribe("#", qos=1)
    events.get(timeout=PATIENCE)
    publishes = {}
    for topic in TOPICS:
        properties = Properties(PacketTypes.PUBLISH)
        properties.ResponseTopic = f"slm/edge-1/reply/{USER}/1"
        client.publish(topic, "{}", qos=1, properties=properties)
        publishes[topic] = events.get(timeout=PATIENCE).value
    print(json.dumps({"connects": [*connects, code], "publishes": publishes}), flush=True)
    sys.stdin.read()
    # What its own requests have come to, and so all that was told before.
    own = {f"slm/edge-1/reply/{USER}/1", f"slm/edge-1/reply/{USER}/7/rejected"}
    end = time.monotonic() + PATIENCE
    while not own <= set(heard) and time.monotonic() < end:
        time.sleep(0.05)
    client.disconnect()
    client.loop_stop()
    print(json.dumps(heard))


main()
