"""A real worker process with the keys of two coverages swapped."""

import json
import os
import subprocess
import sys

from shared.operations.stripe_accounts import check_accounts
from tests.cli.terminal import variables_of
from tests.world import World


def test_worker_with_swapped_keys_exits(world: World, database_url: str, redis_url: str) -> None:
    anna = world.account("A-1")
    world.add_primary_card(anna)
    world.add_due_payment(anna)
    check_accounts(world.engine, world.runtime.gateways, world.machine)
    variables = variables_of(world, database_url, redis_url)
    keys = json.loads(variables["STRIPE_API_KEYS"])
    swapped = json.dumps({"global": keys["japan"], "japan": keys["global"]})
    worker = subprocess.run(
        [
            sys.executable,
            "-m",
            "dramatiq",
            "workers.actors",
            *["--processes", "1", "--threads", "1", "--skip-logging"],
        ],
        env={**os.environ, **variables, "STRIPE_API_KEYS": swapped},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = worker.stdout + worker.stderr
    assert worker.returncode not in (0, None)
    assert "global belongs to acct_sim_japan, not to acct_sim_global" in said, said
    assert "duecourse stripe-accounts change" in said
    assert world.simulator.requests("/v1/payment_intents") == []
