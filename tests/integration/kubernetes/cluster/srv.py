"""A DNS server for a network whose own answers A questions alone: python -c SRV PORT NAMES.

``NAMES`` is JSON: for each name with SRV records, the port and the names of the pods, as Kubernetes has them for a
headless Service. A pod that the network's own server (of /etc/resolv.conf) does not know is left out, as one that does
not exist. Everything else is asked there. Needs Python and dnspython, as the facade's image has them.
"""

from __future__ import annotations

import json
import socket
import sys

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.resolver
import dns.rrset

TTL_S = 5
TIMEOUT_S = 2.0


class Server:
    """Answers one question after the other, by UDP."""

    def __init__(self, names: dict[str, list[list[str]]]) -> None:
        self.names = names
        self.upstream = str(dns.resolver.Resolver().nameservers[0])

    def ask(self, question: dns.message.Message) -> dns.message.Message:
        """What the network's own server says."""
        return dns.query.udp(question, self.upstream, timeout=TIMEOUT_S)

    def exists(self, pod: str) -> bool:
        """Whether the network has an address for a pod."""
        return any(one.rdtype == dns.rdatatype.A for one in self.ask(dns.message.make_query(pod, "A")).answer)

    def answer(self, question: dns.message.Message) -> dns.message.Message:
        """SRV records of a name that has some, else what the other says."""
        asked = question.question[0]
        name = asked.name.to_text(omit_final_dot=True)
        if asked.rdtype != dns.rdatatype.SRV or name not in self.names:
            return self.ask(question)
        found = dns.message.make_response(question, recursion_available=True)
        there = [(port, pod) for port, pod in self.names[name] if self.exists(pod)]
        if there:
            records = [f"0 {100 // len(there)} {port} {pod}." for port, pod in there]
            found.answer.append(dns.rrset.from_text(asked.name, TTL_S, "IN", "SRV", *records))
        else:
            found.set_rcode(dns.rcode.NXDOMAIN)
        return found

    def serve(self, port: int) -> None:
        """Until the process ends."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
            bound.bind(("0.0.0.0", port))
            print("serving", flush=True)
            while True:
                data, sender = bound.recvfrom(4096)
                try:
                    bound.sendto(self.answer(dns.message.from_wire(data)).to_wire(), sender)
                except (dns.exception.DNSException, OSError) as error:
                    print(f"{type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    Server(json.loads(sys.argv[2])).serve(int(sys.argv[1]))
