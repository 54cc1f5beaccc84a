"""The supported parameters of each endpoint.

A test checks each name against the SDK's parameter types (`stripe.params`), so that the simulator can't accept a
parameter that Stripe doesn't have.
"""

from simulator.api.forms import Kind, Spec

TEXT, INTEGER, BOOLEAN, TEXTS, METADATA, RANGE, GONE = Kind

EXPAND: Spec = {"expand": TEXTS}
PAGE: Spec = {"limit": INTEGER, "starting_after": TEXT, "ending_before": TEXT, **EXPAND}
ADDRESS: Spec = dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"), TEXT)
BILLING_DETAILS: Spec = {"address": ADDRESS, "email": TEXT, "name": TEXT, "phone": TEXT, "tax_id": TEXT}
THREE_D_SECURE = frozenset({"any", "automatic", "challenge"})
CARD_OPTIONS: Spec = {"card": {"request_three_d_secure": THREE_D_SECURE}}
AUTOMATIC_METHODS: Spec = {"enabled": BOOLEAN, "allow_redirects": frozenset({"always", "never"})}
MANDATE_DATA: Spec = {
    "customer_acceptance": {
        "type": frozenset({"offline", "online"}),
        "accepted_at": INTEGER,
        "online": {"ip_address": TEXT, "user_agent": TEXT},
    }
}

CUSTOMER_FIELDS: Spec = {
    "address": ADDRESS,
    "description": TEXT,
    "email": TEXT,
    "invoice_settings": {"default_payment_method": TEXT},
    "metadata": METADATA,
    "name": TEXT,
    "phone": TEXT,
    "preferred_locales": TEXTS,
    **EXPAND,
}
CUSTOMER_CREATE: Spec = {**CUSTOMER_FIELDS, "payment_method": TEXT}
CUSTOMER_LIST: Spec = {**PAGE, "created": RANGE, "email": TEXT}

PAYMENT_METHOD_CREATE: Spec = {
    "type": frozenset({"card"}),
    "card": {"number": TEXT, "exp_month": INTEGER, "exp_year": INTEGER, "cvc": TEXT, "token": TEXT},
    "allow_redisplay": frozenset({"always", "limited", "unspecified"}),
    "billing_details": BILLING_DETAILS,
    "metadata": METADATA,
    **EXPAND,
}
PAYMENT_METHOD_UPDATE: Spec = {
    "allow_redisplay": frozenset({"always", "limited", "unspecified"}),
    "billing_details": BILLING_DETAILS,
    "card": {"exp_month": INTEGER, "exp_year": INTEGER},
    "metadata": METADATA,
    **EXPAND,
}
PAYMENT_METHOD_LIST: Spec = {**PAGE, "customer": TEXT, "type": frozenset({"card"})}
CUSTOMER_PAYMENT_METHODS: Spec = {**PAGE, "type": frozenset({"card"})}
PAYMENT_METHOD_ATTACH: Spec = {"customer": TEXT, **EXPAND}

SETUP_INTENT_CONFIRM: Spec = {
    "mandate_data": MANDATE_DATA,
    "payment_method": TEXT,
    "payment_method_options": CARD_OPTIONS,
    "return_url": TEXT,
    **EXPAND,
}
SETUP_INTENT_CREATE: Spec = {
    **SETUP_INTENT_CONFIRM,
    "automatic_payment_methods": AUTOMATIC_METHODS,
    "confirm": BOOLEAN,
    "customer": TEXT,
    "description": TEXT,
    "metadata": METADATA,
    "allowed_payment_method_types": TEXTS,
    "payment_method_types": GONE,
    "usage": frozenset({"off_session", "on_session"}),
}
SETUP_INTENT_CANCEL: Spec = {
    "cancellation_reason": frozenset({"abandoned", "duplicate", "requested_by_customer"}),
    **EXPAND,
}
SETUP_INTENT_LIST: Spec = {**PAGE, "created": RANGE, "customer": TEXT, "payment_method": TEXT}

CAPTURE_METHODS = frozenset({"automatic", "automatic_async", "manual"})
FUTURE_USAGE = frozenset({"off_session", "on_session"})
PAYMENT_INTENT_UPDATE: Spec = {
    "description": TEXT,
    "metadata": METADATA,
    "payment_method": TEXT,
    "receipt_email": TEXT,
    "statement_descriptor": TEXT,
    "statement_descriptor_suffix": TEXT,
    **EXPAND,
}
PAYMENT_INTENT_CONFIRM: Spec = {
    "capture_method": CAPTURE_METHODS,
    "error_on_requires_action": BOOLEAN,
    "mandate_data": MANDATE_DATA,
    "off_session": frozenset({"true", "false", "one_off", "recurring"}),
    "payment_method": TEXT,
    "payment_method_options": CARD_OPTIONS,
    "receipt_email": TEXT,
    "return_url": TEXT,
    "setup_future_usage": FUTURE_USAGE,
    "use_stripe_sdk": BOOLEAN,
    **EXPAND,
}
PAYMENT_INTENT_CREATE: Spec = {
    **PAYMENT_INTENT_UPDATE,
    **PAYMENT_INTENT_CONFIRM,
    "amount": INTEGER,
    "automatic_payment_methods": AUTOMATIC_METHODS,
    "confirm": BOOLEAN,
    "confirmation_method": frozenset({"automatic"}),
    "currency": TEXT,
    "customer": TEXT,
    "allowed_payment_method_types": TEXTS,
    "payment_method_types": GONE,
}
PAYMENT_INTENT_CANCEL: Spec = {
    "cancellation_reason": frozenset({"abandoned", "duplicate", "fraudulent", "requested_by_customer"}),
    **EXPAND,
}
PAYMENT_INTENT_CAPTURE: Spec = {"amount_to_capture": INTEGER, "metadata": METADATA, **EXPAND}
PAYMENT_INTENT_LIST: Spec = {**PAGE, "created": RANGE, "customer": TEXT}

CHARGE_LIST: Spec = {**PAGE, "created": RANGE, "customer": TEXT, "payment_intent": TEXT}
EVENT_LIST: Spec = {**PAGE, "created": RANGE, "type": TEXT, "types": TEXTS, "delivery_success": BOOLEAN}
