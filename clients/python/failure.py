"""Reads what boxoffice says about a failed call, and makes calls again when it says that they may succeed later."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc_status import rpc_status

T = TypeVar("T")


@dataclass
class Failure:
    """A failed call: programs branch on `reason`, people read `message`."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    retry_seconds: float | None = None
    """How long to wait before the same call may succeed; None where waiting does not help."""
    violations: dict[str, str] = field(default_factory=dict)
    """What is wrong with each field of an ill-formed request."""

    @classmethod
    def of(cls, error: grpc.RpcError) -> "Failure":
        failure = cls(error.code(), error.details())
        status = rpc_status.from_call(error)
        for detail in status.details if status else []:
            if detail.Is(ErrorInfo.DESCRIPTOR):
                info = ErrorInfo.FromString(detail.value)
                failure.reason, failure.metadata = info.reason, dict(info.metadata)
            elif detail.Is(RetryInfo.DESCRIPTOR):
                delay = RetryInfo.FromString(detail.value).retry_delay
                failure.retry_seconds = delay.ToTimedelta().total_seconds()
            elif detail.Is(BadRequest.DESCRIPTOR):
                for violation in BadRequest.FromString(detail.value).field_violations:
                    failure.violations[violation.field] = violation.description
        return failure

    def __str__(self) -> str:
        return f"{self.code.name} {self.reason or '(no reason)'}: {self.message}"


def patiently(call: Callable[[], T], patience: float = 30) -> T:
    """Makes a call, again and again while its failure says when to retry, for at most `patience` seconds."""
    give_up_at = time.monotonic() + patience
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            failure = Failure.of(error)
            if failure.retry_seconds is None or time.monotonic() + failure.retry_seconds > give_up_at:
                raise
            print(f"  waiting {failure.retry_seconds:.1f} s, since the call failed with {failure.reason}", flush=True)
            time.sleep(failure.retry_seconds)
