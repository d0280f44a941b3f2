"""From a configuration to a network, with its pretrained weights."""
