"""Bounds and defaults, with their units and reasons. Configuration may change those that say so.

The simulation makes many of them small. What is a detail of one module, which nobody would change, is at its head.
"""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# --- names and files (POSIX and the kernel set these) ---------------------------------------------------

NAME_MAX_BYTES = 255
PATH_MAX_BYTES = 4096
SYMLINK_DEPTH_MAX = 40  # as Linux: MAXSYMLINKS
LINK_MAX = 2**32 - 1  # st_nlink's width in the FUSE protocol
FILE_SIZE_MAX_BYTES = 2**63 - 1
XATTR_NAME_MAX_BYTES = 255
XATTR_VALUE_MAX_BYTES = 64 * KIB  # as Linux: XATTR_SIZE_MAX
XATTR_TOTAL_MAX_BYTES = 64 * KIB  # of all names of one inode: XATTR_LIST_MAX
XATTR_VALUES_MAX_BYTES = 4 * MIB  # of all values of one inode: it goes in one command

# --- chunks ---------------------------------------------------------------------------------------------

CHUNK_MAX_BYTES = 64 * MIB
BLOCK_BYTES = 16 * KIB  # what one CRC32C covers; an append starts a new block. Of less the disk reads all to verify it
BLOCK_MAX_BYTES = 64 * KIB  # as many as earlier versions put into a block
CHUNK_MAX_BLOCKS = 65_536  # 512 KiB of checksums: a chunk of tiny appends is sealed here
APPEND_MAX_BYTES = 4 * MIB  # one append call: large enough to amortise a call, small enough to buffer
APPEND_SURE_BYTES = 1 * MIB  # what every DataNode takes; one that takes more says so in its greeting
READ_MAX_BYTES = 1 * MIB  # one read call, likewise
READ_RANGES_MAX = 256  # of a chunk in one read call: as many pages
REPLICAS_DEFAULT = 3  # configurable
REPLICAS_MAX = 16
MIN_REPLICAS_DEFAULT = 2  # configurable; never more than the number of copies
ALLOCATE_MAX_CHUNKS = 64  # one allocation call
DATANODE_RESERVE_BYTES = 256 * MIB  # configurable; a directory with less free takes no new chunks
FLUSH_AFTER_S = 3.0  # a DataNode's unsynced bytes go to disk after this; with the client's wait: 5 s

# --- the transport --------------------------------------------------------------------------------------

MESSAGE_MAX_BYTES = 8 * MIB  # payload and annotations of one message, checked before allocation
FOREIGN_MESSAGE_MAX_BYTES = 1 * MIB  # in a serializer other than msgpack, whose parser costs more
MESSAGE_DEPTH_MAX = 32  # nesting of containers in a message
CALLS_IN_FLIGHT_MAX = 256  # of one connection, at the server: more wait in the socket
ONEWAY_CALLS_MAX = 768  # of one server, whose callers may be gone: a third for one connection alone, more wait
CONNECTIONS_MAX = 4096  # of one server
HANDSHAKE_TIMEOUT_S = 10.0
HANDSHAKE_MAX_BYTES = 16 * KIB  # what who has not greeted yet says in a message
HANDSHAKE_VALUES_MAX = 256  # in it, where it is serpent: a login has some twenty
HANDSHAKE_FAILURE_DELAY_S = 1.0  # before a stranger hears that he is refused
CONNECTIONS_PER_HOLDER_MAX = 512  # with one key from one host: a busy machine's processes have one each
HANDSHAKES_AT_ONCE_MAX = 512  # connections of one server that have not greeted yet: the oldest makes room for a new one
STRANGERS_LOG_PERIOD_S = 1.0  # what strangers do wrong is logged so often, the rest is counted
STOCK_LOGIN_MAX_S = 60.0  # how far the time in a stock proxy's login may be from the daemon's
STOCK_LOGINS_MAX = 65_536  # within that time
AUTHORITY_VALIDITY_S = 20 * 365 * 24 * 3600.0  # of a cluster's authority: longer than its machines live
CERTIFICATE_VALIDITY_S = 10 * 365 * 24 * 3600.0  # of its certificates; a parameter of who issues one
CERTIFICATE_BACKDATED_S = 24 * 3600.0  # certificates count from so long ago: clocks differ
CONNECT_TIMEOUT_S = 3.0
CALL_TIMEOUT_S = 20.0  # deadline of a call that states no other
SEND_TIMEOUT_S = 30.0  # a peer that takes no byte for so long is gone
MESSAGE_TIMEOUT_S = 60.0  # from a message's first byte to its last, and until an answer that is ready is taken
RECEIVE_BUFFER_BYTES = 64 * KIB  # of one connection: several small messages in one system call
UNIX_SEND_BUFFER_BYTES = 1 * MIB  # of a Unix socket, which the kernel doubles: a whole append or read, and its overhead
RECEIVE_AT_ONCE_MAX_BYTES = 1 * MIB  # a receiver sleeps until the kernel holds so much of a large message
ANNOTATIONS_MAX = 16  # of one message: stock peers send none or a few
MESSAGE_VALUES_MAX = 1 << 20  # values in the arguments of a call: each takes memory, and time of the event loop
CONTAINER_ITEMS_MAX = 65_536  # items of one list or map in a message: some memory is taken before they are read
FOREIGN_VALUES_MAX = 65_536  # values in one serpent message, parsed at a microsecond each
DATA_IN_WORK_MAX_BYTES = 96 * MIB  # of requests being received or worked on, of one server: more wait
PAYLOADS_IN_WORK_MAX_BYTES = 64 * MIB  # of arguments that are long, likewise
DATA_KEPT_MAX_BYTES = 32 * MIB  # receive buffers that a server keeps for reuse
POOL_CONNECTIONS_MAX = 4096  # of one client: the NameNode and every DataNode
POOL_CALLS_MAX = 16_384  # in flight or waited for on one connection, at the client; a quarter of the numbers
WORKER_IDLE_S = 10.0  # a worker thread that has had nothing to do for so long ends
PROBE_TIMEOUT_S = 5.0  # a peer that let a call run out of time, and does not answer a ping for so long, is gone
ACCEPT_PAUSE_S = 0.1  # before a server out of file descriptors tries to accept again
NAMES_MAX = 8192  # in the name server: every daemon of the largest cluster, and as many again
NAME_SERVER_NAME_MAX_CHARS = 128
NAME_SERVER_URI_MAX_CHARS = 256
NAME_SERVER_TAGS_MAX = 8  # metadata of one name; with the bounds above, a full listing fits one message
NAME_SERVER_TAG_MAX_CHARS = 64

# --- the NameNode ---------------------------------------------------------------------------------------

NAMENODE_PORT = 9400
NAMESERVER_PORT = 9090  # Pyro5's own default
BATCH_MAX_COMMANDS = 1024  # of one apply call, and the share of one holder in one group commit
TRANSACTION_MAX_COMMANDS = 4096  # of one group commit, and as many that were held back; the last batch may be more
TRANSACTION_MAX_S = 0.02  # of applying commands, while nobody is answered: what is left of them has the next ones
COMMAND_QUEUE_MAX = 32_768  # at the writer: more are refused as busy. Two sessions have room for six full batches each
FORESEEN_MAX_COMMANDS = 512  # after one that waits: others forget what these touch as well, some 10 ms of their time
FORESEEN_BY_ALL_MAX = 8192  # likewise, together: of fewer commands where many have to forget
YIELDING_COMMANDS_MAX = (
    32_768  # besides, of sessions that others wait for: they send what they did before they give it up
)
REPLIES_KEPT_MAX = 131_072  # of one session that has not acknowledged them, twice as many of one that others wait for:
# a mount sends no more while a command of it waits for one that does not answer. Some 16 MB on the disk
OWN_COMMANDS_MAX = 16_384  # besides, of the NameNode itself: some for each of NODES_MAX DataNodes
OWN_COMMAND_CHUNKS_MAX = 128  # that one of these, where there may be very many, decides about: some milliseconds each
READDIR_MAX_ENTRIES = 4096  # one page
LONG_QUERIES_MAX = 12  # checks, explanations and sums under way: a third of them for one connection alone, more wait
ACCESSES_MAX = 1024  # access times in one command; a mount that has read so much sends them
EXTENTS_MAX = 8192  # extents in one commit, and at most in one page of a read
EXTENTS_CHUNKS_MAX = 512  # which these are in, likewise: places are looked up, and a grant is made, of each
KEYS_LOOK_PERIOD_S = 2.0  # between two looks of the NameNode at cluster.keys, and at who has confirmed a generation
KEY_GENERATIONS_MAX = 8  # of master secrets at a time: the old ones are to be retired
KEY_HOLDERS_MAX = 20_000  # holders of keys that the NameNode remembers to have seen: more than it has sessions
REVOKED_MAX = 1024  # holders whose keys are refused; they travel in one heartbeat: some 70 KB
SEALED_MAX_BYTES = 64 * KIB  # one sealed text: a key file, with room for certificates
JOIN_TIMEOUT_S = 30.0  # `dfs join` waits so long for the NameNode
TOKEN_MAX_BYTES = 16 * KIB  # read of a file that is said to have one; with a certificate one takes 3 KiB
TOKEN_EXPIRES_MAX_S = 30 * 24 * 3600.0  # used tokens are remembered until they expire
CLIENTS_TOLD_AT_ONCE = 1000  # sessions in one answer to who is connected: some 5 ms
CLIENT_NAME_MAX = 200  # characters of what a client says that it is, but for its process id
SESSIONS_MAX = 10_000  # half of them of one key
SESSION_TIMEOUT_S = 30.0  # silence that ends a session
NODES_NEWS_PERIOD_S = 1.0  # sessions hear that DataNodes came or went, no more often: all of them ask then
EVENTS_MAX = 8192  # told to a session and not taken note of: then it is ended
RECALL_MAX_ITEMS = 4096  # which one event has a client forget
EVENTS_ANSWER_ITEMS = 8192  # in one answer to it: with the longest names well below MESSAGE_MAX_BYTES
BACKUP_WAIT_S = 1.0  # for a copy of the namespace, until its reader is told to ask again
EVENTS_WAIT_S = 10.0  # how long the NameNode holds the event call open
LEASES_MAX = 262_144  # of one session, on attributes and as many on directories: some 60 MB; the oldest are recalled
LEASES_CLAIMED_MAX = 524_288  # which it says after a restart that it held, likewise: with those it was to give up
INODES_RESERVED = 8192  # inode numbers that a session asks for at a time, and may: for what it makes by itself
RECLAIM_MAX_INODES = 32_768  # in one call of a client that says what it held before a restart
GRANT_VALID_S = 3600  # a grant for a chunk: how long a DataNode serves who lost the right to it
GARBAGE_GRACE_S = 60.0  # from the last reference to deletion on the DataNodes; readers of old extents finish
WORK_ORDERS_MAX = 256  # in one heartbeat's reply
WORK_ORDERS_MAX_BYTES = 1 * MIB  # likewise, and one more: to punch thousands of ranges takes tens of KiB
COPIES_AHEAD_MAX = 128  # copies ordered of one DataNode and not yet made: half of what an answer may order
COPIES_AHEAD_MAX_BYTES = 256 * MIB  # and their bytes: seconds of work for a disk, or one chunk where that is more
COPY_BANDWIDTH_BYTES_PER_S = 100 * MIB  # configurable; what copies may take of one DataNode's network and disks
COPY_BACKLOG_MAX = 65_536  # chunks waiting for a copy that are remembered, the most urgent ones: some 10 MB
COPY_FAILURES_MAX = 4096  # chunks whose copies failed of late that are remembered
COPY_RETRY_FIRST_S = 5.0  # after a copy failed; doubles each time
COPY_RETRY_MAX_S = 300.0
BALANCE_THRESHOLD = 0.05  # configurable; a fill level so far from the cluster's is evened out
NODES_MAX = 4096
SKIP_CHUNKS_MAX = 2**48  # chunk numbers given that a database does not know: an empty one, until the year 2106
CHECK_MAX_ITEMS = 1024  # inodes or chunks in one question of fsck: some ten milliseconds of a worker thread
CHECK_TOTALS_TIMEOUT_S = 600.0  # counting all inodes and extents: a million takes about a second
EXPLAIN_MAX_CHUNKS = 256  # in one question of why, with the files that they hold: likewise
MAINTENANCE_WINDOW_S = 300.0  # configurable; a DataNode that was stopped in order, not killed, is waited for so long
FULL_GRACE_S = 60.0  # since the disk is nearly full: changes are taken that clients have answered already
NAMENODE_RESERVE_BYTES = 256 * MIB  # configurable; changes are refused when the database's disk has less free

# --- the DataNode ---------------------------------------------------------------------------------------

DATANODE_PORT = 9401
HEARTBEAT_PERIOD_S = 1.0
HEARTBEAT_EARLY_S = 0.05  # a DataNode short of orders asks for more this soon, no sooner
ORDERS_AT_ONCE = 8  # that a DataNode works on: enough to keep its disks and its link busy
COPY_WAIT_MAX_S = 5.0  # for its turn and its share of the bandwidth a source lets a copy wait; then it is busy
COPY_ANSWER_MAX_S = 8.0  # for a source's answer: that wait, and its disk
COPY_SLOWEST_BYTES_PER_S = 128 * KIB  # and the time that the bytes take at this rate, as eight copies of one slow link
COPY_SOURCE_LATE_S = 60.0  # a source that ran out of time is asked after others for so long, until it counts as dead
COPY_REST_MAX_S = 0.1  # after each step of a copy while users are here; else as long as the step took
USERS_GONE_AFTER_S = 0.5  # since the last call of a client
COPY_BUSY_MAX_S = 60.0  # so long a copy asks a busy source again before it tries another
HOLD_SHARE_DEFAULT = 0.5  # configurable; of a node's old chunks: orders to delete more are held
HOLD_MIN_CHUNKS = 1000  # deletions that are never a mass: small nodes and tests live and die by less
HOLD_WINDOW_S = 3600.0  # over which deletions are counted, of chunks that were there when it began
INDEX_NOTED_EVERY_S = 60.0  # how far the NameNode is a DataNode writes down: what a crash may have it forget
HOLD_POSTPONE_S = 3600.0  # held orders come again after this, so that they do not stand in the way of others
WORK_POSTPONE_MAX_S = HOLD_POSTPONE_S + 60.0  # the longest that a DataNode may put an order off: what is due later than
# that is so because the NameNode's clock was ahead
HELD_ORDERS_MAX = 65_536  # numbers of held orders that a DataNode remembers: it asks for these again when allowed;
# and of orders to delete that it has counted, since those that failed come again
SCRUB_PERIOD_S = 14 * 24 * 3600.0  # configurable; every block is read once in this time
SCRUB_BANDWIDTH_BYTES_PER_S = 20 * MIB  # configurable; what a scrub reads at most
SCRUB_YIELD_MAX_S = 0.5  # a scrub waits for users between two reads, no longer: a busy node is scrubbed too
SCRUB_IDLE_S = 60.0  # between two looks at a directory without chunks, and after one that could not be read
SCRUB_SAVE_PERIOD_S = 60.0  # how often progress is written down: as much may be read again after a restart
SCRUB_FINDINGS_MAX = 100  # sentences about what was found, kept and told
NODE_SUSPECT_AFTER_S = 10.0
NODE_DEAD_AFTER_S = 60.0
REPORT_SLICE_CHUNKS = 4096  # chunks in one slice of a report
REPORT_PERIOD_S = 3600.0  # a full report at start, then once in this time; sooner while chunks were not settled
REPORT_SPREAD = 0.25  # of that time, by chance up to so much less: nodes that began together do not report together
REPORT_SPREAD_FIRST_S = 5.0  # by chance up to so much after a node registered, if it has a whole slice to report
REPORTS_AT_ONCE = 4  # slices of reports that the NameNode works on, some 5 ms of each in a turn of its event loop
REPORTS_WAITING_MAX = 1024  # others, of 70 KB each, that wait for that; of more the NameNode says that it is busy
REPORT_WAIT_MAX_S = 12.0  # likewise of one that waits for so long: well within CALL_TIMEOUT_S
DIRECTORIES_MAX = 64  # of one DataNode
CALLS_AT_ONCE_MAX = 48  # of clients, at the disks or being answered: a third for one alone, a worker thread for each
SYNCED_AT_ONCE_MAX = 8  # chunks of one call, which counts as one all the same: worker threads are few
GRANTS_REMEMBERED_MAX = 1024  # of one connection, once checked: some 200 KB
GRANT_RANGES_MAX = 64  # of a chunk that a grant may be for: 1 KiB with each read
OPEN_CHUNKS_MAX = 512  # chunk files kept open, with their block index, per data directory
JOURNAL_BYTES = 8 * MIB  # of a data directory
JOURNAL_FREE_TIMES = 64  # as much as it takes has to be free where it is made
JOURNAL_RETRY_S = 60.0  # after one could not be made
JOURNAL_ENTRY_MAX_BYTES = 64 * KIB  # of more that is to be durable, writing it twice costs more than it saves
INLINE_IO_MAX_BYTES = 64 * KIB  # written to the page cache without a worker thread, whose hop costs more
INLINE_IO_BUSY_MAX_S = 0.02  # but not while a thread waits for the disk longer than one that is well takes for a flush
INLINE_IO_BELIEVED_S = 0.5  # nor later than this after a thread's work was done
UNCACHED_WRITE_MIN_BYTES = 256 * KIB  # written at once: part of a stream, which would push out what is read often
DAMAGE_LOOK_PERIOD_S = 300.0  # how soon blocks that could not be read, and can again, are served
DAMAGE_LOOK_BLOCKS = 16  # of each chunk, then: others follow when these are whole
READ_ERRORS_MAX = 3  # chunks of one data directory that the disk could not read, after which it leaves service
READ_ERRORS_WITHIN_S = 24 * 3600.0  # all of them: single sectors go now and then, and are mended
SETTLED_AFTER_S = 60.0  # a replica unchanged for so long is reported as settled
DISK_PROBE_PERIOD_S = 10.0  # how soon a disk that takes no changes is noticed though nobody makes any
DISK_PROBE_TIMEOUT_S = 30.0  # for the least change, that disk hangs; with the period less than NODE_DEAD_AFTER_S
DISK_WORK_MAX_S = 120.0  # for other work: 16 flushes of a chunk each, side by side, take a slow disk half of that
DISK_WATCH_PERIOD_S = 1.0  # between two looks for disks that hang
DISK_THREADS_MAX = 16  # of one data directory: as many calls as one client has there
FREE_SPACE_CHECK_PERIOD_S = 1.0  # how long a disk's free space is believed
FREE_SPACE_CHECK_BYTES = 64 * MIB  # or how many bytes are written on that belief, well below the reserve

# --- the client -----------------------------------------------------------------------------------------

DATA_TIMEOUT_S = 10.0  # one read from, or append to, a DataNode; then it counts as failed
STRAGGLER_S = 3.0  # so much later than enough others a DataNode may append or flush; then it counts as failed too
IO_BYTES = 1 * MIB  # programs are told to read and write so much at a time
LISTED_BYTES = 128 * KIB  # and to list so much: about 800 names. For each part of a listing so much memory is zeroed
APPENDS_AT_ONCE = 6  # of one file, each to a chunk of its own
SPREAD_FROM_BYTES = 8 * MIB  # written to one file: what follows may go to several chunks at a time
CHAINED_FROM_BYTES = 1 * MIB  # appends that may go from node to node: smaller ones are a matter of time on the way
CHAINED_MAX_BYTES = 2 * MIB  # one of those: a node has all of it before it sends it on
CHAINED_AT_ONCE = 12  # those of one file: all links are busy, though each append is on one of them only
TRIAL_BYTES = 16 * MIB  # appended to find out how fast that is
TRIED_AGAIN_BYTES = 4 * GIB  # appended before it is found out again
SHARED_FROM_BYTES = 128 * KIB  # appends that DataNodes of this host read out of the client's memory
SHARED_SLOTS = 16  # such appends of one client at a time, of APPEND_MAX_BYTES each: others go over sockets
MEMORY_MAX_BYTES = SHARED_SLOTS * APPEND_MAX_BYTES  # of one client, as far as a DataNode reads it
MEMORY_PART_BYTES = 512 * KIB  # read out of it at a time: that stays in the processor's own memory until it is written
MEMORY_PARTS_KEPT = 8  # buffers for that, of one DataNode
MEMORY_IDLE_S = 30.0  # memory out of which nothing was appended for so long is given up
MEMORIES_MAX = 64  # clients whose memory a DataNode reads: the others send
MEMORIES_OF_PARTY_MAX = 16  # those of one key and host
BYTES_IN_FLIGHT_MAX = 32 * MIB  # of one client, written or read and not yet handed on
WRITE_BACK_AFTER_S = 2.0  # bytes written to an open file leave the client after this; the DataNode's wait follows
WRITE_BACK_AT_BYTES = 4 * MIB  # of one open file: more begin to leave at once
COMMIT_EVERY_BYTES = 64 * MIB  # of a file that is written in one go
SMALL_WRITE_MAX_BYTES = 64 * KIB  # of one file: what has so little in memory leaves with other files, in one append
CAUTIOUS_S = 60.0  # after bytes could not be written, so long closing a file waits until they are; writes, if for space
LINGERING_MAX = 4096  # files that are closed and not committed yet; of twice as many, writers wait
DIRTY_RANGE_MAX_BYTES = 1 * MIB  # kept as one piece: what the kernel hands over at once
APPEND_GROWS_UNDER_S = 0.25  # appends that take less become larger, up to APPEND_MAX_BYTES
APPEND_SHRINKS_OVER_S = 1.0  # and smaller again: over a slow link a large one would come near its deadline
DIRTY_MAX_BYTES = 64 * MIB  # of all open files: writers wait for room; less where it leaves slowly (client.throttle)
DIRTY_MIN_BYTES = 1 * MIB  # however slowly it leaves
DIRTY_FIRST_BYTES = 4 * MIB  # until it is known how fast it leaves
DIRTY_MEASURED_BYTES = 256 * KIB  # under way together, from which on it is measured
DIRTY_REMEMBERED_BYTES = 16 * MIB  # of what has left, of which its rate is the average
DIRTY_BELIEVED_S = 60.0  # a rate, after it was measured
READ_AHEAD_BYTES = 1 * MIB  # fetched at a time when a file is read in order
READ_AHEAD_MAX = 4  # such fetches ahead of a reader
READ_AHEAD_KEPT_MAX_BYTES = 64 * MIB  # of all open files: beyond it nothing is fetched ahead
MOUNT_ANSWER_S = 2.0  # a mount that says nothing for so long is not dead, it hangs; of a dead one the kernel says so
KERNEL_READ_AHEAD_BYTES = 1 * MIB  # asked of a mount ahead of who reads in order, and around a page of a mapped file
RECENT_PAGES_MAX = 256  # of an open file that is read and written by turns
RECENT_KEPT_MAX_BYTES = 32 * MIB  # of all of them
RECENT_READ_MAX_BYTES = 128 * KIB  # what is read at once and kept so: who reads more reads in order
STREAMS_MAX = 8  # readers of one open file whose positions are remembered
SMALL_FILE_MAX_BYTES = 256 * KIB  # files up to this are fetched many at a time for who reads one after another
SMALL_FILES_KEPT_BYTES = 32 * MIB  # of them, until they are read
NEW_FILE_S = 0.01  # since a file was made, in which its first bytes have the time of its making
WHOLE_FILES_MAX = 128  # files of which one question tells where they are
FOLLOWED_AFTER = 2  # files near one another that are read, after which the next ones are fetched ahead
FOLLOWED_GAP_MAX = 8  # entries from one file that is read to the next that still count as near
FOLLOWED_ON_S = 1.0  # since somebody read a file near the one before, who may go on in another directory
FOLLOWED_FIRST = 16  # files fetched ahead at first; twice as many each time
FOLLOWED_AGAIN_AFTER_S = 10.0  # since the NameNode could not say where the next ones are
FOLLOWED_WALKS_MAX = 256  # directories whose readers are remembered
STREAM_NEAR_BYTES = 512 * KIB  # so far from where a stream was still goes on with it
STREAM_SURE_AFTER = 2  # times that a stream went on: then it is read ahead for
LENT_CHUNKS_MAX = 128  # files of chunks that DataNodes of this host have lent to one client: descriptors
LENT_BLOCKS_MAX_BYTES = 16 * MIB  # what is known of the blocks of these: 9 bytes each, 36 KiB of most chunks
LENT_FOR_S = 60.0  # as long as deleted chunks are kept for readers of old extents: it takes its space until then
LENT_BEHIND_MAX = 4  # reads of one client that a disk has not answered, and nobody waits for: then none is begun
DISK_QUICK_S = 0.0005  # in which a disk without moving parts has read a block; a thread's hop would be half as much
DISK_LOOKING_MAX = 4  # reads of one client that look after a quick disk from the event loop; others take threads
LENT_BUFFERS_KEPT = 8  # of one client, for reads from such files, of a little more than READ_MAX_BYTES
LEND_AGAIN_AFTER_S = 60.0  # a DataNode that does not lend is asked again
LEND_LONGER_AFTER_S = 1.0  # a chunk that has grown since it was lent is not asked for again before
HEDGE_AFTER_MIN_S = 0.05  # a read that takes no longer is not slow: a disk that has to seek, and its queue
HEDGE_AFTER_MAX_S = 2.0  # a fifth of a read's deadline: so long nobody is to wait for one replica
HEDGE_SHARE = 0.05  # of all reads: so many more are made by asking a second replica
HEDGES_SAVED_MAX = 16.0  # at once, after a while without: what a client reads at a time when a node begins to hang
SLOW_NODE_S = 10.0  # a node that was slower than the next is asked after the others for so long
LAYOUT_BYTES = 8 * GIB  # how much of a file one question for its extents covers
LAYOUT_STRETCH_MIN_BYTES = 1 * MIB  # of a file with more extents than an answer holds: at most a page each, some 256
LAYOUT_KEPT_EXTENTS = 262_144  # of all open files, or what takes as much memory: some 52 MB
SPACE_SHORT_BYTES = 1 * GIB  # left on a DataNode that new files need: from then on closing a file waits for its bytes
LANE_IDLE_S = 10.0  # an open chunk that nobody appends to is sealed after this: only sealed ones are repaired
LANE_KEPT_S = 120.0  # a short one after this, while all is well with its nodes: or each line of a slow log had its own
LANE_KEPT_MAX_BYTES = 16 * MIB  # a longer one is of use as it is
LANES_KEPT_MAX = 4  # of one client: as many as slow writers need, who take turns
LANE_LOOK_PERIOD_S = 30.0  # how often the nodes of those are asked whether they have all of them still
LANE_AGE_MAX_S = 600.0  # it is sealed then, used or not: what is freed in it, or wants more copies, waits for that
TRANSFERS_AT_ONCE = 8  # files of a tree under way at once
SMALL_TRANSFERS_AT_ONCE = 32  # with those that are at most SMALL_FILE_MAX_BYTES: each is a few round trips
LOOKUPS_AT_ONCE = 64  # small calls of one listing or recursive change: a batch for the NameNode, no flood
PROGRESS_AFTER_S = 0.5  # a transfer that is shorter shows no progress
PROGRESS_PERIOD_S = 0.1  # between two drawings of a progress bar
PROGRESS_WAIT_S = 0.5  # between two looks at how far a drain or a balance is
COMPLETION_TIMEOUT_S = 1.0  # a shell that completes a path waits no longer
COMPLETIONS_MAX = 1000  # names offered for one word
CACHE_ENTRIES_MAX = 131_072  # configurable; inodes and as many names that a mount remembers: some 100 MB
CACHE_ENTRIES_MIN = 1024  # of a mount's: with a handful what a call has just looked up is gone before it is used
XATTRS_CACHED_MAX_BYTES = 4 * KIB  # of one inode: larger ones are asked for each time
XATTRS_AT_ONCE_MAX = 128  # inodes in a directory of which a client asks for them, when it asks for those of one
MOUNT_CACHE_ENTRIES_MAX = 2**26  # of a mount's, as configured: some 50 GB
STOPS_WATCHED_S = 1.0  # between two looks of who has leases whether his machine was suspended or paused
STOP_S = 1.0  # for which it was so, or its clock set ahead: then no kernel keeps what it was told before
RECLAIM_DELAY_S = 0.2  # between two attempts of who has leases to find a NameNode again: all changes wait for him
STREAM_DELAY_S = 0.005  # for which commands that were answered already gather before they are sent
HELD_BACK_MAX_S = 12.0  # a rename onto another file waits for the bytes of its own, while a DataNode hangs perhaps
STREAM_MAX_COMMANDS = 8192  # answered and not sent, or on their way; then one waits. A few MB
OWNED_AT_ONCE_MAX = 256  # files in a directory that a client asks for when it changes one after the other
OWNED_AT_ONCE_FIRST = 8  # the first time; then twice as many, and so on
OWN_OTHERS_S = 0.1  # for which the others of them are waited for, when the one that is changed is to be had
OWN_AGAIN_FIRST_S = 0.1  # since somebody else wanted a directory that this client owned; twice as long each time
OWN_AGAIN_MAX_S = 2.0  # at most; who has owned it for longer than that begins anew
PREFETCH_AFTER_MISSES = 2  # names of one directory that had to be asked for, after which its listing is fetched
PREFETCH_PAGE_ENTRIES = 1024  # of it in one answer: some milliseconds of the NameNode
PREFETCH_AWAITED_S = 0.5  # for so long a name that is looked up waits for the listing of its directory
PREFETCH_MAX_ENTRIES = 8192  # of a larger directory the rest is asked for name by name
TREE_MAX_ENTRIES = 2048  # of directories told together, each of which counts as one; so many ahead of who walks a tree
TREE_MAX_DIRECTORIES = 512  # named in one such question
AHEAD_FIRST = 256  # entries told ahead of who begins to walk a tree
AHEAD_PART = 512  # and then in one answer: 3 ms of the NameNode
AHEAD_PARTS_MAX = 2  # such answers waited for at a time
AHEAD_ENTRIES_SEEN = 2048  # in a directory, among which the next ones are looked for
MOUNT_WAIT_MAX_S = 365 * 86400  # a year: as configured for a mount, how long an operation waits for a NameNode
NAMENODE_WAIT_S = 60.0  # how long an operation waits for a NameNode that is away, configurable
FIRST_CONTACT_TIMEOUT_S = 5.0  # a command line says so when no NameNode answers within this
DATANODES_WAIT_S = 10.0  # how long reads and writes wait for DataNodes that are away: well within SESSION_TIMEOUT_S
RETRY_DELAY_FIRST_S = 0.05
RETRY_DELAY_MAX_S = 2.0
KEY_RETIRE_WAIT_S = 10.0  # `dfs key retire` waits so long for those who are about to renew their keys

SERVICE_START_TIMEOUT_S = 60.0  # `dfs join` waits so long for systemd to have the DataNode registered

# --- measuring ------------------------------------------------------------------------------------------

BENCH_MAX_BYTES = 64 * GIB  # one large file: more says no more, whatever the machine's memory
BENCH_FILES_MAX = 1_000_000  # of each kind
BENCH_CLEANUP_TIMEOUT_S = 60.0  # `dfs bench` that was interrupted removes what it made, no longer than this

# --- daemons and whoever started them -------------------------------------------------------------------

HEALTH_PERIOD_S = 1.0  # between two looks of a daemon at itself, for systemd's status line
STARTING_PERIOD_S = 0.1  # the same until it serves: others wait for its readiness
WATCHDOG_PING_PERIOD_S = 5.0  # or a third of the watchdog's patience, where that is less
FAREWELL_TIMEOUT_S = 2.0  # a DataNode that stops waits no longer for its NameNode to take note
FAREWELL_TRIES_S = 60.0  # for which the NameNode is told of a mount that is gone; sessions end by themselves then

# --- the local cluster of `dfs up` ----------------------------------------------------------------------

LOCAL_DATANODES_DEFAULT = 4  # one more than the copies: a DataNode may go, and every copy has a place still
LOCAL_DATANODES_MAX = 64  # each is a process of its own on this machine
LOCAL_UP_TIMEOUT_S = 30.0  # `dfs up` waits so long for every daemon
LOCAL_START_ATTEMPTS = 4  # of a daemon, after which `dfs up` says that it does not run; it is still tried again
LOCAL_STOP_TIMEOUT_S = 30.0  # from SIGTERM to SIGKILL
LOCAL_POLL_PERIOD_S = 0.1  # between two looks at a cluster that starts or stops
LOCAL_CONTROL_TIMEOUT_S = 10.0  # one request to the supervisor that waits for no daemon, and its reply
LOCAL_CONTROL_MAX_BYTES = 64 * KIB  # one request or reply: a cluster of the most DataNodes, four times over
RESTART_DELAY_FIRST_S = 0.2  # before a daemon that ended is started again; doubles each time
RESTART_DELAY_MAX_S = 10.0
RESTART_DELAY_RESET_S = 30.0  # a daemon that lived so long starts again after the first delay
LOG_FILE_MAX_BYTES = 10 * MIB  # of the log of one daemon or mount, and as much again in the file before
LOG_CHECK_PERIOD_S = 60.0  # how often the supervisor, and a mount, look at the logs' sizes
PORTS_TRIED_MAX = 1000  # above a preferred port: below the kernel's ephemeral ones, which come and go
