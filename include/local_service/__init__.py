"""The local coding service: the occupation coding service's API on one loopback port, for trials and tests.

It is written from the service's public contract alone and shares no code with the client, so that neither
hides the other's mistake. Start it with ``python -m include.local_service --data DIR``, or in a test with
`include.local_service.server.LocalService`.
"""
