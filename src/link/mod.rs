//! The connection to the broker: the only module that names rumqttc.
