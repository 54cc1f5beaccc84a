"""One operator's action on many payments: previewed, then done once per payment, with stop and resume.

`actions.py` lists the actions, `preview.py` counts what one would do, `lifecycle.py` starts, stops and resumes it,
`progress.py` does a chunk. Each payment goes through the same function as the single action, with the operator's
name and reason.
"""
