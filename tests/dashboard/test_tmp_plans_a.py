import re, time
from datetime import timedelta
from sqlalchemy import text, event
import httpx
from shared.search.payments import *
from shared.search.accounts import find_accounts
from shared.search.find import find
from shared.search.one_account import *
from shared.search.paging import Paging, Place
from tests.seed import default_policy
from tests.world import START
from tests.dashboard.test_payments import FILTERS

SEED = """
INSERT INTO accounts (external_id, name, email, standing, standing_since_at, created_at)
 SELECT 'C'||lpad(n::text,7,'0'), md5(n::text), md5(n::text)||'@example.com',
  CASE WHEN n%50=0 THEN 'past_due' ELSE 'good' END, CASE WHEN n%50=0 THEN now() - n*interval '1 min' END,
  now() - n * interval '1 minute' FROM generate_series(1, 25000) n;
INSERT INTO payment_settings (account_id, coverage, kind, billing_details, stripe_customer_id) SELECT id, 'global', 'card', '{}', 'cus_'||external_id FROM accounts;
INSERT INTO invoices (account_id, coverage, period, number, number_year, number_sequence, currency, total_minor, issued_on, due_on, billing_snapshot)
 SELECT s.account_id, 'global', (date '2026-01-01' + m * interval '1 month')::date, 'G-2026-'||lpad((row_number() over ())::text,7,'0'), 2026, row_number() over (), 'USD', 100, date '2026-01-01' + m*30, date '2026-01-01' + m*30, '{}'
 FROM generate_series(0,9) m, payment_settings s;
INSERT INTO payments (kind, account_id, settings_id, coverage, invoice_id, currency, amount_minor, state, lane, trigger, next_attempt_at, due_on, paid_at, period, last_decline_code, created_at, held_until, waiting_for_revision_after)
 SELECT 'monthly', i.account_id, s.id, 'global', i.id, 'USD', (i.number_sequence % 5000)::int, st, 'batch', CASE WHEN i.number_sequence % 500 = 0 THEN 'operator' ELSE 'month_start' END,
  CASE WHEN st in ('due','retry_scheduled') THEN now() END, i.due_on, CASE WHEN st='paid' THEN now() END, i.period,
  CASE WHEN i.number_sequence % 8 = 0 THEN 'insufficient_funds' WHEN i.number_sequence % 97 = 0 THEN 'do_not_honor' END,
  i.due_on + (i.number_sequence % 600) * interval '1 second', CASE WHEN i.number_sequence % 997 = 0 THEN timestamptz '9999-12-31' END, CASE WHEN st='needs_payment_method' THEN 0 END
 FROM (SELECT i.*, CASE WHEN number_sequence % 40 = 0 THEN 'retry_scheduled' WHEN number_sequence % 41 = 0 THEN 'needs_payment_method' WHEN number_sequence % 3000=0 THEN 'void' WHEN period >= '2026-10-01' AND number_sequence % 5 = 0 THEN 'due' ELSE 'paid' END st FROM invoices i) i JOIN payment_settings s ON s.account_id = i.account_id;
INSERT INTO payment_intents (payment_id, ordinal, coverage, amount_minor, currency, stripe_customer_id, stripe_payment_intent_id, create_parameters, api_version)
 SELECT id, 1, 'global', 1, 'USD', 'x', 'pi_'||row_number() over (), '{}', '1' FROM payments WHERE period >= '2026-06-01';
INSERT INTO payment_attempts (payment_id, number, kind, state, payment_intent_id, coverage, trigger, lane, card_revision, started_at, lease_expires_at, stripe_charge_id, stripe_request_id)
 SELECT payment_id, 1, 'charge', CASE WHEN random() < 0.0005 THEN 'unknown' ELSE 'succeeded' END, id, 'global', 'month_start','batch',1, now(), now(), 'ch_'||stripe_payment_intent_id, 'req_'||stripe_payment_intent_id FROM payment_intents;
INSERT INTO events (at, type, actor, account_id, payment_id, before, after, data) SELECT now(), 'payment_created','worker', account_id, id, '{}','{}','{}' FROM payments;
ANALYZE;
"""
def test_plans(engine):
    with engine.begin() as c:
        for s in SEED.split(";\n"):
            if s.strip(): c.exec_driver_sql(s.replace("%", "%%"))
    bad = []
    with engine.connect() as c:
        ext = c.scalar(text("select external_id from accounts where name like 'a%' limit 1"))
        mid = c.execute(text("select created_at, id from payments order by created_at offset 100000 limit 1")).one()
        plans = []
        state = {"on": True}
        def look(name, work):
            stmts = []
            def catch(conn, cur, st, params, ctx, many): stmts.append((st, params))
            event.listen(engine, "before_cursor_execute", catch)
            for _ in range(2):
                stmts.clear(); t = time.perf_counter(); work(); t = (time.perf_counter()-t)*1000
            event.remove(engine, "before_cursor_execute", catch)
            print(f"{t:8.1f} ms {name}")
            for st, params in [s for s in stmts if not s[0].startswith("SET")]:
                raw = c.connection.driver_connection
                with raw.cursor() as cur:
                    cur.execute("EXPLAIN (ANALYZE, BUFFERS OFF) " + st, params)
                    plan = "\n".join(r[0] for r in cur.fetchall())
                if re.search(r"Seq Scan on (payments|payment_attempts|invoices|events|accounts|payment_intents|payment_settings)", plan) or float(re.search(r"Execution Time: ([\d.]+)", plan)[1]) > 3000:
                    bad.append(name); print(name); print(st[:300]); print(plan)
        qs = [q for q,_ in FILTERS] + [{"account": ext}, {"text": "abc"}, {"text": "ab"}, {"text": ext}, {"text":"G-2026-0000100"}, {"coverage":"japan"}, {"trigger":"operator","coverage":"global"},{"state":"due","older_than":"20"},{"older_than":"200"},{"state":["retry_scheduled","needs_payment_method"],"older_than":"200"},{"coverage":"global","amount_from":"20.00","amount_to":"20.10"},{"trigger":"card_registered"}]
        for q in qs:
            q = {k:v for k,v in q.items()}
            f = PaymentFilter.from_query(httpx.QueryParams(q).multi_items(), default_policy(), START).filter
            look(f"page {q}", lambda: find_page(c, f, Paging()))
            look(f"page after {q}", lambda: find_page(c, f, Paging(after=Place(mid.created_at, mid.id))))
            look(f"page before {q}", lambda: find_page(c, f, Paging(before=Place(mid.created_at, mid.id))))
            look(f"count {q}", lambda: count_matches(c, f))
            if f.text: look(f"broad {q}", lambda: too_broad(c, f))
        for w in (None, "good", "past_due"):
            from shared.domain.states import Standing
            for t in ("", "abc"):
                look(f"accounts {w} {t}", lambda: find_accounts(c, t, Standing(w) if w else None, Paging()))
        for w in ("pi_500", "ch_pi_500", "req_pi_500", "cus_"+ext, ext, "abc", "a", "pm_1", "G-2026-0000100", str(mid.id)):
            look(f"find {w}", lambda: find(c, w, default_policy().coverages))
        aid = c.scalar(text("select id from accounts where external_id = :e"), {"e": ext})
        look("account", lambda: look_at_account(c, aid)); look("events", lambda: events_of_account(c, aid, None))
    print("BAD", bad)
