"""A one-node Kubernetes on this machine, for the chart's scenarios: no Docker, no kind, no registry of images.

Everything runs in namespaces of its own (network, mounts, processes, IPC) that one process holds. The network has no
uplink, so nothing of a test leaves the machine; when the holder is killed, the kernel ends every program and pod and
takes every mount, link and packet filter away with it.

``layout`` says where everything lies, ``build`` makes the programs, ``files`` writes certificates and configuration,
``programs`` knows the command lines, ``inside`` runs within the namespaces, ``machine`` makes and removes them.
"""
