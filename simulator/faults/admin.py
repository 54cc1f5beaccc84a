"""`/_sim/faults` and `/_sim/rate_limit`: scripts faults over HTTP. JSON in, JSON out."""

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from simulator.admin import guarded, read_json
from simulator.api.errors import bad_parameter
from simulator.api.rate_limit import RateLimit, rate_per_second
from simulator.faults.rules import FaultRuleError, rule_from_json
from simulator.faults.scripted import ScriptedFaults
from simulator.webhooks.delivery import WebhookSenders


@dataclass
class FaultAdmin:
    """The endpoints for the fault hooks, the rate limit and the webhooks."""

    faults: ScriptedFaults
    rate_limit: RateLimit
    webhooks: WebhookSenders

    def routes(self) -> list[Route]:
        table = (
            ("GET", "/faults", self.show),
            ("POST", "/faults", self.add),
            ("DELETE", "/faults", self.clear),
            ("GET", "/rate_limit", self.show_rate_limit),
            ("POST", "/rate_limit", self.set_rate_limit),
        )
        return [Route(f"/_sim{path}", guarded(handle), methods=[method]) for method, path, handle in table]

    async def show(self, request: Request) -> Response:  # noqa: ARG002
        rules = [{"rule": each.rule.to_json(), "seen": each.seen, "hits": each.hits} for each in self.faults.rules]
        counts = {**self.faults.counts(), "rate_limit": self.rate_limit.refused}
        return JSONResponse({"data": rules, "counts": counts})

    async def add(self, request: Request) -> Response:
        """Add all rules, or none if one is invalid."""
        given = (await read_json(request)).get("rules")
        if not isinstance(given, list):
            raise bad_parameter('The body is {"rules": [{"kind": …}, …]}.', "rules", "parameter_missing")
        rules = []
        for position, each in enumerate(given):
            try:
                rules.append(rule_from_json(each))
            except FaultRuleError as error:
                raise bad_parameter(str(error), f"rules[{position}][{error.field}]") from None
        self.faults.add(rules)
        return await self.show(request)

    async def clear(self, request: Request) -> Response:  # noqa: ARG002
        cleared = self.faults.clear()
        self.webhooks.release_held()
        return JSONResponse({"cleared": cleared})

    async def show_rate_limit(self, request: Request) -> Response:  # noqa: ARG002
        return JSONResponse({"per_second": self.rate_limit.per_second, "refused": self.rate_limit.refused})

    async def set_rate_limit(self, request: Request) -> Response:
        body = await read_json(request)
        if "per_second" not in body:
            raise bad_parameter(
                "Missing required field: per_second (null: no limit).", "per_second", "parameter_missing"
            )
        given = body["per_second"]
        try:
            self.rate_limit.set(None if given is None else rate_per_second(float(given)))
        except (TypeError, ValueError):
            message = f"per_second is a number of requests above 0, or null for no limit, not {given!r}."
            raise bad_parameter(message, "per_second") from None
        return await self.show_rate_limit(request)
