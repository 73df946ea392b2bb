"""Whom the ready-made network handlers may talk to.

By default: any host whose every address is public. The name is resolved here, each address is checked, and the
connection is made to a checked address, so that a name cannot answer with a public address first and a private one
afterwards. Redirects come through here again. With `hosts` given, nobody else may be talked to; with `networks`, the
private networks in it may be.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from typing import Final, TypeAlias

import pydantic

from windlass.runtimes import failures
from windlass.runtimes.python_context import TaskFailure

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
#: Networks whose addresses carry an IPv4 address, and from which byte on.
_CARRIERS: Final = {
    ipaddress.IPv6Network("64:ff9b::/96"): 12,
    ipaddress.IPv6Network("64:ff9b:1::/48"): 12,
    ipaddress.IPv6Network("2002::/16"): 2,
    ipaddress.IPv6Network("::ffff:0:0/96"): 12,
    ipaddress.IPv6Network("::/96"): 12,
}


class NetworkPolicy(pydantic.BaseModel):
    """What the operator of a worker allows its network handlers."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    #: Host names; `*.example.com` allows every name below it. Empty: any.
    hosts: tuple[str, ...] = ()
    #: Networks that are not public and are allowed all the same, as `10.1.0.0/16`.
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    #: Largest answer that is read.
    response_bytes_max: int = 1 << 20

    def allows_host(self, host: str) -> bool:
        """Tell whether the name may be talked to at all."""
        name = host.rstrip(".").lower()
        return not self.hosts or any(
            name == allowed.lower() or (allowed.startswith("*.") and name.endswith(allowed[1:].lower()))
            for allowed in self.hosts
        )

    def allows_address(self, address: _Address) -> bool:
        """Tell whether the address may be talked to."""
        if any(address.version == network.version and address in network for network in self.networks):
            return True
        carried = _carried(address)
        if carried is not None:
            return self.allows_address(carried)
        return address.is_global and not address.is_multicast and not address.is_reserved


def _carried(address: _Address) -> ipaddress.IPv4Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    for network, at in _CARRIERS.items():
        if address in network:
            return ipaddress.IPv4Address(address.packed[at : at + 4])
    return None


#: Told of every refused address, before the refusal is raised.
Denied: TypeAlias = Callable[[str], None]


async def checked_address(policy: NetworkPolicy, host: str, port: int, denied: Denied) -> str:
    """Resolve `host`; the address to connect to. Raises TaskFailure: ADDRESS_REFUSED, BAD_INPUT, REMOTE_ERROR."""
    if not policy.allows_host(host):
        denied(f"{host}:{port}")
        raise _refused(host, "it is not on the worker's list of allowed hosts")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # an empty label, or one of more than 63 characters
        raise TaskFailure(failures.BAD_INPUT, f"{host!r} is no host name: {error}", retryable=False) from error
    except OSError as error:
        raise TaskFailure(failures.REMOTE_ERROR, f"cannot resolve {host}: {error}", retryable=True) from error
    addresses = list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))
    for address in addresses:
        if not policy.allows_address(ipaddress.ip_address(address)):
            denied(f"{host}:{port} = {address}")
            raise _refused(host, f"{address} is not a public address")
    return addresses[0]


def _refused(host: str, why: str) -> TaskFailure:
    return TaskFailure(failures.ADDRESS_REFUSED, f"this worker may not talk to {host}: {why}", retryable=False)
