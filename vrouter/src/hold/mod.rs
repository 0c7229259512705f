//! What keeps the devices' descriptors alive while no forwarder runs?
