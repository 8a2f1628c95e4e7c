"""Run by an interpreter that has libnbd's bindings: does what its one argument names, prints a JSON object.

Not a test module: `test_negative.py` starts it. libnbd's strict mode is switched off, so that requests
leave the client that it would normally refuse to send.
"""

import json
import sys

import nbd

KiB, MiB = 1 << 10, 1 << 20


def attempt(request):
    try:
        request()
    except nbd.Error as error:
        return error.errno or error.string
    return "ok"


def handle():
    h = nbd.NBD()
    h.set_uri_allow_local_file(True)  # the directory of certificates
    return h


def connected(uri):
    h = handle()
    h.set_strict_mode(0)
    h.set_request_block_size(False)  # otherwise libnbd itself keeps to the advertised maximum
    h.add_meta_context("base:allocation")
    h.connect_uri(uri)
    return h


def requests(uri):
    """Each wrong request, the error that it gets; the connection must live to the last."""
    h = connected(uri)
    size = h.get_size()
    h.pwrite(b"\x5a" * 4096, 0)

    def status(count, offset, flags=0):
        h.block_status(count, offset, lambda *_: 0, flags)

    block = b"\x11" * 512
    told = {
        "read past the end": attempt(lambda: h.pread(512, size)),
        "read across the end": attempt(lambda: h.pread(1024, size - 512)),
        "read at 2^63": attempt(lambda: h.pread(512, 1 << 63)),
        "read wrapping around": attempt(lambda: h.pread(1024, (1 << 64) - 512)),
        "write past the end": attempt(lambda: h.pwrite(block, size)),
        "write across the end": attempt(lambda: h.pwrite(block * 2, size - 512)),
        "write wrapping around": attempt(lambda: h.pwrite(block * 2, (1 << 64) - 512)),
        "zero past the end": attempt(lambda: h.zero(512, size)),
        "zero across the end": attempt(lambda: h.zero(1024, size - 512)),
        "trim past the end": attempt(lambda: h.trim(512, size)),
        "trim across the end": attempt(lambda: h.trim(1024, size - 512)),
        "cache past the end": attempt(lambda: h.cache(512, size)),
        "status past the end": attempt(lambda: status(512, size)),
        "read with an unknown flag": attempt(lambda: h.pread(512, 0, 1 << 9)),
        "write with an unknown flag": attempt(lambda: h.pwrite(block, 0, 1 << 9)),
        "write with DF": attempt(lambda: h.pwrite(block, 0, nbd.CMD_FLAG_DF)),
        "write with NO_HOLE": attempt(lambda: h.pwrite(block, 0, nbd.CMD_FLAG_NO_HOLE)),
        "trim with FAST_ZERO": attempt(lambda: h.trim(512, 0, nbd.CMD_FLAG_FAST_ZERO)),
        "read with REQ_ONE": attempt(lambda: h.pread(512, 0, nbd.CMD_FLAG_REQ_ONE)),
        "read with FUA": attempt(lambda: h.pread(512, 0, nbd.CMD_FLAG_FUA)),
        "flush with FUA": attempt(lambda: h.flush(nbd.CMD_FLAG_FUA)),
        "trim with FUA": attempt(lambda: h.trim(512, 8192, nbd.CMD_FLAG_FUA)),
        "zero with FUA": attempt(lambda: h.zero(512, 8192, nbd.CMD_FLAG_FUA)),
        "read the last byte": attempt(lambda: h.pread(1, size - 1)),
        "write the last byte": attempt(lambda: h.pwrite(b"z", size - 1)),
    }
    told["still in step"] = h.pread(4096, 0) == b"\x5a" * 4096 and h.pread(1, size - 1) == b"z"
    h.shutdown()
    return told


def payload(uri):
    """The largest payload, whole and back; one more byte is refused without harm to the next connection."""
    h = connected(uri)
    data = bytearray(64 * MiB)
    data[0], data[33 * MiB], data[-1] = 1, 2, 3
    told = {"write 64 MiB": attempt(lambda: h.pwrite(data, 0))}
    told["read 64 MiB"] = h.pread(64 * MiB, 0) == data
    h.shutdown()
    return told


def huge(uri):
    """Zero and trim of nearly 4 GiB in one request, at once."""
    h = connected(uri)
    gone = (1 << 32) - 4096
    h.pwrite(b"x" * MiB, 0)
    h.pwrite(b"y" * MiB, gone - MiB)
    h.pwrite(b"z" * MiB, gone)
    told = {"zero": attempt(lambda: h.zero(gone, 0))}
    told["zeroed reads zero"] = not any(h.pread(MiB, 0)) and not any(h.pread(MiB, gone - MiB))
    h.pwrite(b"x" * MiB, 0)
    told["trim"] = attempt(lambda: h.trim(gone, 0))
    told["trimmed reads zero"] = not any(h.pread(MiB, 0)) and not any(h.pread(MiB, gone - MiB))
    told["beyond is untouched"] = h.pread(MiB, gone) == b"z" * MiB
    told["fast zero"] = attempt(lambda: h.zero(gone, 0, nbd.CMD_FLAG_FAST_ZERO))
    told["no hole"] = attempt(lambda: h.zero(MiB, 0, nbd.CMD_FLAG_NO_HOLE))
    h.shutdown()
    return told


def readonly(uri):
    """Every way to change a read-only export."""
    h = connected(uri)
    told = {
        "read only": bool(h.is_read_only()),
        "write": attempt(lambda: h.pwrite(b"x" * 512, 0)),
        "zero": attempt(lambda: h.zero(512, 0)),
        "trim": attempt(lambda: h.trim(512, 0)),
        "read": attempt(lambda: h.pread(512, 0)),
    }
    h.shutdown()
    return told


def handshake(uri):
    """Options in every order that a client may send them."""
    told = {}
    h = handle()
    h.set_opt_mode(True)
    h.connect_uri(uri)
    name = h.get_export_name()
    listed = []
    told["list"] = attempt(lambda: h.opt_list(lambda export, description: listed.append(export) or 0))
    told["listed"] = listed
    contexts = []
    h.add_meta_context("base:")
    told["contexts"] = attempt(lambda: h.opt_list_meta_context(lambda context: contexts.append(context) or 0))
    told["base:allocation listed"] = "base:allocation" in contexts
    h.clear_meta_contexts()
    h.set_export_name("no-such-export/../vol")
    told["info of nonsense"] = attempt(h.opt_info)
    h.set_export_name("x" * 4096)
    told["info of a name of 4096 bytes"] = attempt(h.opt_info)
    h.set_export_name(name)
    h.add_meta_context("base:allocation")
    h.add_meta_context("no:such-context")
    told["info"] = attempt(h.opt_info)
    told["size by info"] = h.get_size()
    told["info again"] = attempt(h.opt_info)
    told["go"] = attempt(h.opt_go)
    told["base:allocation on"] = bool(h.can_meta_context("base:allocation"))
    told["no:such-context on"] = bool(h.can_meta_context("no:such-context"))
    told["read"] = attempt(lambda: h.pread(512, 0))
    h.shutdown()

    h = handle()
    h.set_opt_mode(True)
    h.connect_uri(uri)
    h.set_export_name("x" * 4096)
    told["go of a name of 4096 bytes"] = attempt(h.opt_go)

    h = handle()
    h.set_opt_mode(True)
    h.connect_uri(uri)
    told["abort"] = attempt(h.opt_abort)

    h = handle()  # EXPORT_NAME: what clients from before GO send
    h.set_handshake_flags(0)
    h.set_request_structured_replies(False)
    if not uri.startswith("nbds"):
        h.connect_uri(uri)
        told["export name"] = h.get_protocol()
        told["export name size"] = h.get_size()
        told["export name reads"] = attempt(lambda: h.pread(512, 0))
        h.shutdown()

    h = handle()
    h.set_request_structured_replies(False)
    h.connect_uri(uri)
    told["simple replies"] = not h.get_structured_replies_negotiated()
    told["simple read"] = attempt(lambda: h.pread(65536, 0))
    told["simple write"] = attempt(lambda: h.pwrite(b"q" * 512, 512))
    h.shutdown()
    return told


print(json.dumps(globals()[sys.argv[1]](sys.argv[2])))
