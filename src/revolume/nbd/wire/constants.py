"""The numbers of the NBD protocol, under its own names, and what each is for.

Everything on the wire is big-endian. Three phases follow one another on a connection:

    greeting      S: NBDMAGIC IHAVEOPT flags16        C: flags32
    options       C: IHAVEOPT option32 length32 data  S: OPTION_REPLY option32 reply32 length32 data
    transmission  C: requests                         S: replies

The layouts stand beside the code that packs them: ``greeting.py``, ``options.py``, ``requests.py``,
``replies.py``. "Extended" means the 32-byte headers of the EXTENDED_HEADERS extension; "compact" the older ones.
"""

from __future__ import annotations

from enum import Enum, IntEnum, IntFlag
from typing import Final

DEFAULT_PORT: Final = 10809

# Greeting and options
GREETING_MAGIC: Final = 0x4E42444D41474943  # "NBDMAGIC"
OPTION_MAGIC: Final = 0x49484156454F5054  # "IHAVEOPT"
OPTION_REPLY_MAGIC: Final = 0x0003E889045565A9

# Transmission
REQUEST_MAGIC: Final = 0x25609513
SIMPLE_REPLY_MAGIC: Final = 0x67446698
STRUCTURED_REPLY_MAGIC: Final = 0x668E33EF
EXTENDED_REQUEST_MAGIC: Final = 0x21E41C71
EXTENDED_REPLY_MAGIC: Final = 0x6E8A278C

# What the protocol itself bounds
STRING_BYTES_MAX: Final = 4096
STATUS_EXTENTS_MAX: Final = 1 << 20  # in one block status chunk
EXPORT_NAME_PADDING: Final = 124  # zeroes after an EXPORT_NAME answer, unless both sides said NO_ZEROES

# What this server offers (INFO_BLOCK_SIZE)
BLOCK_SIZE_MIN: Final = 1
BLOCK_SIZE_PREFERRED: Final = 4096
PAYLOAD_BYTES_MAX: Final = 64 << 20


class HandshakeFlag(IntFlag):
    """Sent by the server in the greeting; the client answers with the same bits."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class TransmissionFlag(IntFlag):
    """What an export can do, told with its size."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    ROTATIONAL = 1 << 4
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8
    SEND_RESIZE = 1 << 9
    SEND_CACHE = 1 << 10
    SEND_FAST_ZERO = 1 << 11
    BLOCK_STATUS_PAYLOAD = 1 << 12


class Dialect(Enum):
    """The headers of the transmission phase, chosen by the client."""

    SIMPLE = "simple"
    STRUCTURED = "structured"
    EXTENDED = "extended"


class Option(IntEnum):
    """What a client may ask for before transmission."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10
    EXTENDED_HEADERS = 11


class Reply(IntEnum):
    """How an option is answered; bit 31 marks an error, whose data is a sentence for a person."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = (1 << 31) + 1
    ERR_POLICY = (1 << 31) + 2
    ERR_INVALID = (1 << 31) + 3
    ERR_PLATFORM = (1 << 31) + 4
    ERR_TLS_REQD = (1 << 31) + 5
    ERR_UNKNOWN = (1 << 31) + 6
    ERR_SHUTDOWN = (1 << 31) + 7
    ERR_BLOCK_SIZE_REQD = (1 << 31) + 8
    ERR_TOO_BIG = (1 << 31) + 9
    ERR_EXT_HEADER_REQD = (1 << 31) + 10


REPLY_ERROR_BIT: Final = 1 << 31


class Info(IntEnum):
    """Items of an INFO or GO answer."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class Command(IntEnum):
    """Requests of the transmission phase."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class CommandFlag(IntFlag):
    """Flags of a request; which are legal where is ``requests.LEGAL``."""

    FUA = 1 << 0
    NO_HOLE = 1 << 1
    DF = 1 << 2
    REQ_ONE = 1 << 3
    FAST_ZERO = 1 << 4
    PAYLOAD_LEN = 1 << 5


class Chunk(IntEnum):
    """Types of structured and extended reply chunks; bit 15 marks an error."""

    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    BLOCK_STATUS_EXT = 6
    ERROR = (1 << 15) + 1
    ERROR_OFFSET = (1 << 15) + 2


CHUNK_ERROR_BIT: Final = 1 << 15
CHUNK_DONE: Final = 1  # the flag of a reply's last chunk


class State(IntFlag):
    """Flags of a ``base:allocation`` extent."""

    HOLE = 1
    ZERO = 2


DIRTY: Final = 1  # the flag of a changed extent in a ``qemu:dirty-bitmap:`` context


class Errno(IntEnum):
    """The only error numbers there are on the wire."""

    EPERM = 1
    EIO = 5
    ENOMEM = 12
    EINVAL = 22
    ENOSPC = 28
    EOVERFLOW = 75
    ENOTSUP = 95
    ESHUTDOWN = 108
