"""A card processor that speaks Stripe's HTTP API, for the demo, the tests and the chaos runs.

It answers the official SDK (`stripe==16.1.0`, API version 2026-10-28.endive) over HTTP: customers, payment
methods, SetupIntents, PaymentIntents, charges, events, the account, and signed webhooks with retries. What it
confirms is on disk before it answers; `GET /_sim/ledger` is the independent ledger that money tests read.

Start it
    python -m simulator --port 12111 --data .duecourse/simulator      (port 0: a free one, printed when ready)
    SIMULATOR_HOST, SIMULATOR_PORT, SIMULATOR_DATA, SIMULATOR_WEBHOOKS
        (JSON list: [{"account": "global", "url": "http://…", "secret": "whsec_…", "enabled_events": ["*"]}]),
        (the whole list for the accounts it names; if a URL changed, pending deliveries move to the new one),
    SIMULATOR_ACCOUNTS=global,japan (keys of other accounts get 401; default: any name is an account),
    SIMULATOR_CONFIRMATION_LIMIT,
    DUECOURSE_CLOCK=virtual with DATABASE_URL: `created` and card stories follow the shared business clock.
    In a test:  with running_simulator(clock=ManualClock(...)) as sim: sim.url, sim.ledger(), sim.make_card(…)

Point the SDK at it
    StripeClient("sk_test_sim_global", base_addresses={"api": sim.url}, max_network_retries=0)
    The key names the account: `sk_test_sim_<account>`. Every object belongs to one account.

Cards
    Stripe's test numbers and `pm_card_*` ids (simulator/issuer/cards.py is the table). As at Stripe, a card that
    declines can't be attached to a customer, except `pm_card_chargeCustomerFail`: for a customer whose card
    is out of money use a card with a story:
        card = sim.make_card("global", DeclinesThenPays(times=2, decline_code="insufficient_funds"))
        client.v1.payment_methods.attach(card.token, {"customer": "cus_…"})     # or
        sim.register_card("global", customer="cus_…", card=card.token, metadata={…})
    `pm_story_…` tokens work like `pm_card_*`: each use makes a new PaymentMethod of the same card
    (same fingerprint). A story is counted per card, is durable, and its dates are on the business clock.
    `sim.set_story(...)` replaces a card's story.

API version: since 2026-09-30.endive `payment_method_types` can't be written on PaymentIntents and
    SetupIntents; it answers 400 `payment_method_types_no_longer_supported`. Cards only is now
    `allowed_payment_method_types=["card"]`
    (docs.stripe.com/changelog/endive/2026-09-30/removes-the-payment-method-types-parameter-…).

Faults (simulator/faults/catalogue.py is the table of kinds; in memory only: after a restart there are none)
    sim.add_faults([
        FaultRule("cut_after", account="global", operation="confirm", skip=2),      # the third confirm
        FaultRule("unavailable", customer="cus_…", count=5),
        FaultRule("webhook_dropped", probability=0.1, seed=7, count=None),          # until cleared
    ])
    sim.fault_counts()    faults that had their effect, by kind        sim.fault_rules()    each rule with its hits
    sim.clear_faults()    removes the rules; held webhooks are sent
    sim.set_rate_limit(25), SIMULATOR_RATE_LIMIT=25: 429 above 25 requests a second and account (default: none)
    The same over HTTP: POST {"rules": [{"kind": "slow", "delay_ms": 3000}]}, GET, DELETE /_sim/faults;
    POST {"per_second": 25} /_sim/rate_limit.

A parameter that it doesn't implement answers 400 `parameter_unknown`.
Amounts below Stripe's minimum (USD 0.50, JPY 50) answer 400 `amount_too_small`.
A PaymentIntent has ten declines; the next confirm cancels it (`--confirmation-limit`).

Packages, in reading order
    api         the HTTP side of Stripe's API: routes (the table of endpoints), pipeline (what happens to a request,
                step by step), payment_intents, setup_intents, payment_methods, customers, lists, idempotency
    issuer      what a card answers: charging (where money moves), issuer, cards, declines, stories
    faults      catalogue (the kinds of faults), rules (which requests they hit), hooks (where they act),
                scripted, effects, answers, subjects, admin
    webhooks    events and the outbox, delivery, poster
    store       SQLite: records, ids, store
    admin is `/_sim`; client and testing are for the users of the simulator.
"""
