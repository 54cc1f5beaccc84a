"""An owner of embedded servers for tests: `owner.py FOLDER WAY`. Prints the URLs, then ends in the given way."""

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from local.embedded import EmbeddedError, servers


def main(folder: Path, way: str) -> None:
    with servers(folder) as urls:
        print(json.dumps(asdict(urls)), flush=True)
        if way == "fork" and os.fork() == 0:
            os.close(1)  # the test reads our output to its end
        if way == "return":
            return
        if way == "exit":
            os._exit(3)
        if way == "raise":
            raise RuntimeError("a bug")
        while True:
            signal.pause()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2])
    except EmbeddedError as error:
        print(json.dumps({"error": str(error)}), flush=True)
