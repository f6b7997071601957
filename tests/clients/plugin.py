#!/usr/bin/env python3
"""A CSI driver that only says who it is: plugin.py SOCKET VERSION [FLAGS...]. The flags are for a program that reads its command line."""

import sys
from concurrent import futures

import grpc

NAME = "secrets-store.csi.k8s.io"


def text(number, value):
    """A string field of a protobuf message, shorter than 128 bytes."""
    return bytes([number << 3 | 2, len(value)]) + value.encode()


def main():
    socket, version = sys.argv[1:3]
    answer = text(1, NAME) + text(2, version)
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: answer)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("csi.v1.Identity", {"GetPluginInfo": handler})])
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    server.wait_for_termination()


main()
