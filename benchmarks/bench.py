"""What the programs in this folder share with `hpcdl bench`, by one name."""

from hpcdl.bench.options import Parser, count, one_of, size, size_name
from hpcdl.bench.record import append, host, line, show, summary, versions
from hpcdl.bench.timing import interleave

__all__ = ["Parser", "append", "count", "host", "interleave", "line", "one_of", "show", "size", "size_name", "summary", "versions"]
