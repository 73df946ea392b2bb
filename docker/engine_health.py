#!/usr/bin/env python
"""Ask an engine how it is, for a container's health check.

    engine_health.py [HOST:PORT]      default 127.0.0.1:7711

Ends with 0 when the engine says SERVING, with 1 when it says anything else (it drains) or does not answer in three
seconds. The reason is printed: it shows in `docker inspect`.
"""

from __future__ import annotations

import sys

import grpc
from grpc_health.v1 import health_pb2

ANSWER_WITHIN_SECONDS = 3


def main() -> int:
    """Return the exit code."""
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7711"
    with grpc.insecure_channel(address) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(), timeout=ANSWER_WITHIN_SECONDS)
        except grpc.RpcError as error:
            print(f"{address}: {error.code().name}")
            return 1
    print(f"{address}: {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}")
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1


if __name__ == "__main__":
    sys.exit(main())
