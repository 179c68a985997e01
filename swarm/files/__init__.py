"""Files people own: inputs in, drafts for the queue, outputs back. Knows no queue and no model server.

Use: ``with opened(path) as source: scan = validate(source, options)``, then ``drafts(source, options, scan)``, and when
the work is done ``write_results(out, pairs)``.
"""

from swarm.files.drafts import Draft, drafts
from swarm.files.links import links
from swarm.files.options import Format, ReadOptions
from swarm.files.outfile import check_writable
from swarm.files.scan import Scan, batch_id, validate
from swarm.files.source import Source, opened
from swarm.files.write import Written, errors_path_of, write_results

__all__ = [
    "Draft",
    "Format",
    "ReadOptions",
    "Scan",
    "Source",
    "Written",
    "batch_id",
    "check_writable",
    "drafts",
    "errors_path_of",
    "links",
    "opened",
    "validate",
    "write_results",
]
