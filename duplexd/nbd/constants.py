"""Numbers of the NBD protocol, with the names of its specification.

Source: NetworkBlockDevice/nbd, doc/proto.md.

Plain ints: an enum costs more than the rest of parsing a request.
"""

from __future__ import annotations

# Magics
INIT_MAGIC = 0x4E42444D41474943  # "NBDMAGIC"
OPTION_MAGIC = 0x49484156454F5054  # "IHAVEOPT"
OPTION_REPLY_MAGIC = 0x0003E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF
EXTENDED_REQUEST_MAGIC = 0x21E41C71
EXTENDED_REPLY_MAGIC = 0x6E8A278C

DEFAULT_PORT = 10809

# Handshake flags (server), and client flags (same bits)
FLAG_FIXED_NEWSTYLE = 1 << 0
FLAG_NO_ZEROES = 1 << 1

# Options
OPT_EXPORT_NAME = 1
OPT_ABORT = 2
OPT_LIST = 3
OPT_STARTTLS = 5
OPT_INFO = 6
OPT_GO = 7
OPT_STRUCTURED_REPLY = 8
OPT_LIST_META_CONTEXT = 9
OPT_SET_META_CONTEXT = 10
OPT_EXTENDED_HEADERS = 11

# Option replies
REP_ACK = 1
REP_SERVER = 2
REP_INFO = 3
REP_META_CONTEXT = 4
REP_FLAG_ERROR = 1 << 31
REP_ERR_UNSUP = REP_FLAG_ERROR + 1
REP_ERR_POLICY = REP_FLAG_ERROR + 2
REP_ERR_INVALID = REP_FLAG_ERROR + 3
REP_ERR_PLATFORM = REP_FLAG_ERROR + 4
REP_ERR_TLS_REQD = REP_FLAG_ERROR + 5
REP_ERR_UNKNOWN = REP_FLAG_ERROR + 6
REP_ERR_SHUTDOWN = REP_FLAG_ERROR + 7
REP_ERR_BLOCK_SIZE_REQD = REP_FLAG_ERROR + 8
REP_ERR_TOO_BIG = REP_FLAG_ERROR + 9
REP_ERR_EXT_HEADER_REQD = REP_FLAG_ERROR + 10

# Metadata contexts
CONTEXT_ALLOCATION = "base:allocation"
CONTEXT_DIRTY_BITMAP = "qemu:dirty-bitmap:"  # and the name of a bitmap
CONTEXT_UNCHANGED = "x-duplexd:unchanged:"  # and the name of a bitmap

# Information types of INFO and GO
INFO_EXPORT = 0
INFO_NAME = 1
INFO_DESCRIPTION = 2
INFO_BLOCK_SIZE = 3

# Transmission flags
FLAG_HAS_FLAGS = 1 << 0
FLAG_READ_ONLY = 1 << 1
FLAG_SEND_FLUSH = 1 << 2
FLAG_SEND_FUA = 1 << 3
FLAG_ROTATIONAL = 1 << 4
FLAG_SEND_TRIM = 1 << 5
FLAG_SEND_WRITE_ZEROES = 1 << 6
FLAG_SEND_DF = 1 << 7
FLAG_CAN_MULTI_CONN = 1 << 8
FLAG_SEND_RESIZE = 1 << 9
FLAG_SEND_CACHE = 1 << 10
FLAG_SEND_FAST_ZERO = 1 << 11
FLAG_BLOCK_STATUS_PAYLOAD = 1 << 12

# Commands
CMD_READ = 0
CMD_WRITE = 1
CMD_DISC = 2
CMD_FLUSH = 3
CMD_TRIM = 4
CMD_CACHE = 5
CMD_WRITE_ZEROES = 6
CMD_BLOCK_STATUS = 7

# Command flags
CMD_FLAG_FUA = 1 << 0
CMD_FLAG_NO_HOLE = 1 << 1
CMD_FLAG_DF = 1 << 2
CMD_FLAG_REQ_ONE = 1 << 3
CMD_FLAG_FAST_ZERO = 1 << 4
CMD_FLAG_PAYLOAD_LEN = 1 << 5

# Chunks of structured and extended replies: flag, and types
REPLY_FLAG_DONE = 1 << 0
REPLY_NONE = 0
REPLY_OFFSET_DATA = 1
REPLY_OFFSET_HOLE = 2
REPLY_BLOCK_STATUS = 5
REPLY_BLOCK_STATUS_EXT = 6
REPLY_ERROR = (1 << 15) + 1
REPLY_ERROR_OFFSET = (1 << 15) + 2

# States of an extent in base:allocation; 0 is always right
STATE_HOLE = 1 << 0
STATE_ZERO = 1 << 1
# The one in a dirty bitmap; it is 1 that is always right
STATE_DIRTY = 1 << 0

# Errors on the wire; the values are those of Linux
EPERM = 1
EIO = 5
ENOMEM = 12
EINVAL = 22
ENOSPC = 28
EOVERFLOW = 75
ENOTSUP = 95
ESHUTDOWN = 108

# Sizes in bytes
STRING_BYTES_MAX = 4096  # export names and other strings, by the specification
# Of names, descriptions and error texts to a client: nbd-client expects each in a single read
REPLY_TEXT_BYTES_MAX = 1000
BLOCK_BYTES_MIN = 1
BLOCK_BYTES_PREFERRED = 4096
PAYLOAD_BYTES_ADVERTISED = 32 << 20
PAYLOAD_BYTES_MAX = 64 << 20  # accepted from a client that did not ask for block sizes
# Zeroes that may have to be written; as many as 32 bits of length can ask for
SLOW_ZEROES_BYTES_MAX = 0xFFFFFFFF
OPTION_BYTES_MAX = 64 << 10  # data of a longer option is skipped, and the option refused
OPTION_SKIPPED_BYTES_MAX = 32 << 20  # an option that announces more closes the connection
CONTEXT_QUERIES_MAX = 1024  # in one LIST_META_CONTEXT or SET_META_CONTEXT
BITMAPS_LISTED_MAX = 64  # in one answer to a query that names none of them
BITMAPS_SELECTED_MAX = 16
CONTEXTS_AN_OPTION = 8  # listed or selected, that count as one more option
