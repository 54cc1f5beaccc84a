"""One decision over many payments: seen before it is made, done once for each payment, stopped and resumed.

`actions.py` what there is, `preview.py` what it would do, `book.py` begin, stop and resume, `progress.py` a chunk.
Each payment is decided about by the very function that the single action uses, with the person's name and reason.
"""
