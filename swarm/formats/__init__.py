"""Files people own: inputs in, drafts for the queue, outputs back. Knows no queue and no model server.

Use: ``with opened(path) as source: scan = validate(source, options)``, then ``drafts(source, options, scan)``, and when
the work is done ``write_results(out, pairs)``.
"""

from swarm.formats.input.options import Format, ReadOptions
from swarm.formats.input.source import Source, opened
from swarm.formats.output.atomic_file import check_writable
from swarm.formats.output.writer import Written, errors_path_of, write_results
from swarm.formats.tasks.links import links
from swarm.formats.tasks.scan import Draft, Scan, drafts, validate

__all__ = [
    "Draft",
    "Format",
    "ReadOptions",
    "Scan",
    "Source",
    "Written",
    "check_writable",
    "drafts",
    "errors_path_of",
    "links",
    "opened",
    "validate",
    "write_results",
]
