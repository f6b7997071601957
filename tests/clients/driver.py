#!/usr/bin/env python3
"""A gRPC C-core client of a provider: like a Secrets Store CSI driver before v1.6.0, it sends the socket's path as `:authority`.

The answer is printed as JSON, one line per call; a failed call is {"code": ..., "message": ...}, and exit code 1.
"""

import argparse
import base64
import json
import sys

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "v1alpha1"
SERVICE = f"/{PACKAGE}.CSIDriverProvider/"
KIND = descriptor_pb2.FieldDescriptorProto
STRING, INT32, BYTES = KIND.TYPE_STRING, KIND.TYPE_INT32, KIND.TYPE_BYTES

# The messages: fields in the order of their numbers. A message's name in a list is a repeated field of it.
MESSAGES = {
    "VersionRequest": {"version": STRING},
    "VersionResponse": {"version": STRING, "runtime_name": STRING, "runtime_version": STRING},
    "ObjectVersion": {"id": STRING, "version": STRING},
    "MountRequest": {
        "attributes": STRING,
        "secrets": STRING,
        "target_path": STRING,
        "permission": STRING,
        "current_object_version": ["ObjectVersion"],
    },
    "Error": {"code": STRING},
    "File": {"path": STRING, "mode": INT32, "contents": BYTES},
    "MountResponse": {"object_version": ["ObjectVersion"], "error": "Error", "files": ["File"]},
}


def message_classes():
    """The messages' classes, made from MESSAGES without a protobuf compiler."""
    file = descriptor_pb2.FileDescriptorProto(name="provider.proto", package=PACKAGE, syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field_name, kind) in enumerate(fields.items(), start=1):
            field = message.field.add(name=field_name, number=number, label=KIND.LABEL_OPTIONAL)
            if isinstance(kind, list):
                field.label = KIND.LABEL_REPEATED
                (kind,) = kind
            if isinstance(kind, str):
                field.type = KIND.TYPE_MESSAGE
                field.type_name = f".{PACKAGE}.{kind}"
            else:
                field.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in MESSAGES}


CLASSES = message_classes()


def json_string(value):
    """The driver sends JSON in a string. The caller may give the JSON itself."""
    return value if isinstance(value, str) else json.dumps(value)


def mount_request(given):
    return CLASSES["MountRequest"](
        attributes=json_string(given.get("attributes", {})),
        secrets=json_string(given.get("secrets")),
        target_path=given.get("target_path", ""),
        permission=json_string(given.get("permission", 420)),
        current_object_version=[CLASSES["ObjectVersion"](**version) for version in given.get("current_object_version", [])],
    )


def version_request(given):
    return CLASSES["VersionRequest"](version=given.get("version", "v1alpha1"))


def version_answer(response):
    return {name: getattr(response, name) for name in MESSAGES["VersionResponse"]}


def mount_answer(response):
    answer = {
        "files": [
            {"path": file.path, "mode": file.mode, "contents_base64": base64.b64encode(file.contents).decode()}
            for file in response.files
        ],
        "object_version": [{"id": version.id, "version": version.version} for version in response.object_version],
    }
    if response.HasField("error"):
        answer["error"] = {"code": response.error.code}
    return answer


CALLS = {
    "version": ("Version", version_request, "VersionResponse", version_answer),
    "mount": ("Mount", mount_request, "MountResponse", mount_answer),
}


def read_json(file):
    if file is None:
        return {}
    if file == "-":
        return json.load(sys.stdin)
    with open(file, encoding="utf-8") as source:
        return json.load(source)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("socket", help="path of the provider's Unix socket")
    parser.add_argument("call", choices=CALLS)
    parser.add_argument("--json", metavar="FILE", help="the request as a JSON object, `-` for stdin; attributes and secrets may be objects or strings")
    parser.add_argument("--authority", help="sent as :authority instead of the socket's path")
    parser.add_argument("--deadline", type=float, default=120, metavar="SECONDS", help="of each call, 120 by default, as kubelet's")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="calls, one after the other on one connection")
    return parser.parse_args()


def main():
    args = arguments()
    method, request, response, answer = CALLS[args.call]
    options = [("grpc.enable_retries", 0)]
    if args.authority is not None:
        options.append(("grpc.default_authority", args.authority))
    request = request(read_json(args.json))
    with grpc.insecure_channel(f"unix:{args.socket}", options=options) as channel:
        call = channel.unary_unary(
            SERVICE + method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=CLASSES[response].FromString,
        )
        for _ in range(args.repeat):
            try:
                print(json.dumps(answer(call(request, timeout=args.deadline))), flush=True)
            except grpc.RpcError as error:
                print(json.dumps({"code": error.code().name, "message": error.details()}), flush=True)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
