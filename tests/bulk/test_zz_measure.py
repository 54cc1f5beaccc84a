import time
from datetime import date
from sqlalchemy import text, select
from shared.bulk.actions import BulkAction
from shared.db.tables import payments
from shared.bulk.progress import work_on_chunk
SEED = """
    INSERT INTO accounts (external_id, name) SELECT 'A-' || n, 'A' FROM generate_series(1, 50000) n;
    INSERT INTO payment_settings (account_id, coverage, kind, stripe_customer_id) SELECT id, 'global', 'card', 'cus_'||external_id FROM accounts;
    INSERT INTO cards (settings_id, coverage, stripe_payment_method_id, brand, network, last4, exp_month, exp_year, fingerprint, attached_at)
      SELECT id, 'global', 'pm'||stripe_customer_id, 'visa','visa','4242',1,2030,'fp'||stripe_customer_id, '2026-01-01' FROM payment_settings;
    UPDATE payment_settings s SET primary_card_id = c.id, card_revision=1 FROM cards c WHERE c.settings_id = s.id;
    INSERT INTO payments (kind, account_id, settings_id, coverage, currency, amount_minor, state, lane, trigger, due_on, next_attempt_at, paid_at)
    SELECT 'monthly', s.account_id, s.id, 'global', 'USD', 100+n%50, CASE WHEN n % 25 = 0 THEN 'due' ELSE 'paid' END, 'batch', 'month_start', '2026-11-01',
           CASE WHEN n % 25 = 0 THEN timestamptz '2026-11-01' END, CASE WHEN n % 25 = 0 THEN NULL ELSE timestamptz '2026-11-01' END
    FROM (SELECT s.*, row_number() OVER () AS place FROM payment_settings s) s, generate_series(1,10) m, LATERAL (SELECT s.place*10+m AS n) x;
    ANALYZE;
"""
def test_measure(desk):
    with desk.world.engine.begin() as c:
        c.connection.cursor().execute(SEED)
    ids = select(payments.c.id).where(payments.c.state == "due")
    for action in (BulkAction.CHARGE, BulkAction.HOLD, BulkAction.VOID):
        t=time.time(); seen = desk.sees(action, ids); print(action, "preview", seen.count, round(time.time()-t,2))
        t=time.time(); b = desk.confirms(action, seen.digest, ids=ids); print("begin", round(time.time()-t,2))
        for _ in range(3):
            t=time.time()
            with desk.world.engine.begin() as c: work_on_chunk(c, desk.world.runtime, b.bulk_id)
            print("chunk", round(time.time()-t,3))
        desk.stops(b.bulk_id)
    allp = select(payments.c.id)
    with desk.world.engine.connect() as c:
        from shared.bulk.preview import preview
        t=time.time(); print(preview(c, BulkAction.VOID, allp, desk.world.clock.now()), round(time.time()-t,2))
