"""A local stand-in for the occupation coding service: its API on one port, for trials and tests.

It is written from the public documentation of the service alone and shares no code with the client, so that
neither can hide a mistake of the other. Start it with ``python -m include.local_service --data DIR``, or in a
test with `include.local_service.http.server.LocalService`.
"""
