"""NBD, the protocol by which volumes are used as disks: server and client.

wire/    the protocol: bytes to values and back, no I/O
export   what a server needs of a volume
bounds/  what clients may cost: memory, requests, connections
server/  server -> session -> negotiation (handshake) or transmission (executor)
client   requests; client_handshake the options, client_connection what is received
"""
