"""From a URL to encoded and decoded images: catalogue -> leases -> samples -> pixels."""

from engine.corpus.catalogue import CorpusError, Shard, list_shards
from engine.corpus.lease import Lease, plan_leases
from engine.corpus.reader import LeaseReader, open_lease
from engine.corpus.sample import Defect, Sample

__all__ = [
    "CorpusError",
    "Defect",
    "Lease",
    "LeaseReader",
    "Sample",
    "Shard",
    "list_shards",
    "open_lease",
    "plan_leases",
]
