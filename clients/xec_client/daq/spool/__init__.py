r"""The durable spool: what the data acquisition hands over stays on disk until it is answered.

    source --offer()--> memory (bounded) --writer thread--> segments on disk --take()--> consumer
                 \                                                              |
                  `-- gap ledger (memory and disk full)      acknowledge(), reject() after the sink

Two claims, two counters (see `Watermarks`): an *accepted* event survives a kill of the process, a
*durable* one survives a power cut. Each event offered is in one state: result, quarantined, spooled
or in the gap ledger (see `accounting`).
"""

from xec_client.daq.spool.ids import EventId
from xec_client.daq.spool.settings import SpoolSettings, SyncPolicy
from xec_client.daq.spool.spool import Spool
from xec_client.daq.spool.store import Spooled, Watermarks

__all__ = ["EventId", "Spool", "SpoolSettings", "Spooled", "SyncPolicy", "Watermarks"]
