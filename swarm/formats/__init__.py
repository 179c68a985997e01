"""File formats: inputs in, documents for the queue, outputs back.

Knows no queue and no model server. Use: ``with opened(path) as source: scan = validate(source, options)``, then
``drafts(source, options, scan)``, and when the work is done ``write_results(out, pairs)``.
"""
