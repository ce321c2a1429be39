"""One adapter a peer. See base.py for what an adapter has to offer."""
import importlib

NAMES = ["direct", "envoy", "nginx", "haproxy", "ours", "ours-pq", "ours-http"]


def load(name):
    return importlib.import_module("peers." + name.replace("-", "_")).PEER
