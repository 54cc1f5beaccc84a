"""Finds the steps of our own source that need a failpoint on both sides, and says where one is missing.

A step is a transaction or a request to the processor. The points of a function are read in the order of the text:
before a step the nearest of points and steps must be a point, and after it too. What a transaction runs must
itself end in a point named `…_BEFORE_COMMIT`.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from shared.failpoints import Failpoint
from shared.gateway.port import ProcessorGateway

ROOT = Path(__file__).resolve().parents[2]
#: Everything that works for a message, a tick or a webhook. Commands of people are one transaction each, and the
#: person is told.
WATCHED = (
    "workers/use_cases",
    "shared/accounts",
    "shared/bulk",
    "shared/payments",
    "shared/invoicing",
    "shared/operations/stripe_event_processing.py",
    "shared/reconciliation",
    "shared/scheduling/daily_run.py",
    "shared/scheduling/runs.py",
    "scheduler",
    "web/webhooks.py",
)
#: Commands of operators: a preview and `verify` write nothing of ours, customers are made again under the same key.
NOT_WATCHED = (
    "shared/accounts/stripe_customers.py",
    "shared/invoicing/preview.py",
    "shared/reconciliation/verify/",
)
TRANSACTIONS = frozenset({"in_transaction", "in_turn"})
#: Sends what REQUESTS are, with a failpoint on both sides.
EDGES = ("begun", "before_commit", "committed")
REQUEST, UNNAMED = "request", "request without the name of a step"
REQUESTS = frozenset(name for name in vars(ProcessorGateway) if not name.startswith("_"))
LAST_CHANCE = "_BEFORE_COMMIT"

Function = ast.FunctionDef | ast.AsyncFunctionDef
Position = tuple[int, int]


@dataclass(frozen=True)
class Point:
    """A call of `reach`; `name` is the member's, None if it isn't written out."""

    at: Position
    name: str | None


@dataclass(frozen=True)
class Step:
    """A transaction or a request, from its first to its last character."""

    what: str
    begins: Position
    ends: Position
    body: ast.expr | None = None  # what a transaction runs
    block: ast.With | None = None  # a transaction written as a block
    is_named: bool = False  # a transaction with a `step`, which has its points by itself


@dataclass(frozen=True)
class Source:
    """One file, with what its functions contain."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def functions(self) -> Mapping[str, Function]:
        """By name; of two with one name, as methods may be, the last."""
        return {node.name: node for node in ast.walk(self.tree) if isinstance(node, Function)}

    @cached_property
    def points(self) -> Sequence[Point]:
        return [point for node in ast.walk(self.tree) if (point := _point(node)) is not None]


@dataclass
class Findings:
    """What is missing, and what was found: transactions and requests with a point on both sides."""

    missing: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    points: list[str | None] = field(default_factory=list)


def watched_sources(root: Path = ROOT) -> list[Source]:
    """Every file of ours that is watched, by path."""
    files = [
        file
        for name in WATCHED
        for file in (sorted((root / name).rglob("*.py")) if (root / name).is_dir() else [root / name])
    ]
    paths = {str(file.relative_to(root)): file for file in files if file.exists()}
    return [Source(path, file.read_text()) for path, file in paths.items() if not path.startswith(NOT_WATCHED)]


def examine(sources: Sequence[Source]) -> Findings:
    """Check all steps of all sources."""
    found = Findings()
    functions = {name: function for source in sources for name, function in source.functions.items()}
    wrappers = {
        (source.path, name)
        for source in sources
        for name, function in source.functions.items()
        if _is_wrapper(function)
    }
    for source in sources:
        own = {name for path, name in wrappers if path == source.path}
        found.points += [point.name for point in source.points]
        found.points += [name for node in ast.walk(source.tree) for name in _points_of_chunks(node)]
        found.points += [point.name for node in ast.walk(source.tree) for point in _edges(node)]
        for node in ast.walk(source.tree):
            if isinstance(node, Function) and node.name not in own:
                _examine(source, node, TRANSACTIONS | own, {**functions, **source.functions}, found)
    return found


def _examine(
    source: Source,
    function: Function,
    transactions: frozenset[str],
    functions: Mapping[str, Function],
    found: Findings,
) -> None:
    inside = list(_own_nodes(function))
    points = sorted((point for node in inside for point in _points_here(node)), key=lambda point: point.at)
    steps = [step for node in inside if (step := _step(node, transactions)) is not None]
    for step in sorted(steps, key=lambda step: step.begins):
        where = f"{source.path}:{step.begins[0]} {function.name}: {step.what}"
        found.steps.append(where)
        if step.what == REQUEST or step.is_named:
            continue  # it has them all
        if step.what in REQUESTS or step.what == UNNAMED:
            found.missing.append(f'{where} has no failpoints: send it by request("charge.create", gateway.…, …)')
            continue
        others = [other for other in steps if other is not step]
        if not _has_point_before(step, points, others):
            found.missing.append(f"{where} has no failpoint before it: reach(Failpoint.…) where it begins")
        if not _has_point_after(step, points, others):
            found.missing.append(f"{where} has no failpoint after it: reach(Failpoint.…) before anything follows")
        if not _ends_in_a_point(step, function, functions):
            found.missing.append(f"{where} runs nothing that reaches a Failpoint.…{LAST_CHANCE}")


def _has_point_before(step: Step, points: Sequence[Point], others: Sequence[Step]) -> bool:
    last_point = max((point.at for point in points if point.at < step.begins), default=None)
    last_step = max((other.ends for other in others if other.ends <= step.begins), default=(0, 0))
    return last_point is not None and last_point >= last_step


def _has_point_after(step: Step, points: Sequence[Point], others: Sequence[Step]) -> bool:
    next_point = min((point.at for point in points if point.at >= step.ends), default=None)
    next_step = min((other.begins for other in others if other.begins >= step.ends), default=None)
    return next_point is not None and (next_step is None or next_point <= next_step)


def _ends_in_a_point(step: Step, function: Function, functions: Mapping[str, Function]) -> bool:
    if step.block is not None:
        return _reaches_last_chance(step.block)
    named = _name_of_work(step.body, function)
    body = named if isinstance(named, ast.AST) else functions.get(named or "")
    return body is not None and _reaches_last_chance(body)


def _reaches_last_chance(node: ast.AST) -> bool:
    names = (point.name for inner in ast.walk(node) if (point := _point(inner)) is not None)
    return any(name is not None and name.endswith(LAST_CHANCE) for name in names)


def _name_of_work(work: ast.expr | None, function: Function) -> str | ast.AST | None:
    """The function that a transaction runs: `lambda connection: f(…)`, `partial(f, …)`, or a name of either."""
    match work:
        case ast.Lambda(body=ast.Call() as call):
            return _called(call)
        case ast.Call(args=[ast.Name(id=name), *_]) if _called(work) == "partial":
            return name
        case ast.Name(id=name):
            for node in ast.walk(function):
                if isinstance(node, Function) and node.name == name:
                    return node
                if isinstance(node, ast.Assign) and any(
                    isinstance(target, ast.Name) and target.id == name for target in node.targets
                ):
                    return _name_of_work(node.value, function)
            return name
        case _:
            return None


def _is_wrapper(function: Function) -> bool:
    """Whether all it does is to run its own parameter in a transaction: then its callers have the step."""
    parameters = {argument.arg for argument in function.args.args}
    match function.body[-1]:
        case ast.Return(value=ast.Call() as call) if _called(call) in TRANSACTIONS:
            return any(isinstance(argument, ast.Name) and argument.id in parameters for argument in call.args[1:2])
        case _:
            return False


def _own_nodes(function: Function) -> Iterator[ast.AST]:
    """All of a function but what the functions in it contain."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, Function | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))


def _point(node: ast.AST) -> Point | None:
    if not (isinstance(node, ast.Call) and _called(node) == "reach"):
        return None
    match node.args:
        case [ast.Attribute(value=ast.Name(id="Failpoint"), attr=name)]:
            return Point((node.lineno, node.col_offset), name)
        case _:
            return Point((node.lineno, node.col_offset), None)


def _edges(node: ast.AST) -> list[Point]:
    """What `request("charge.create", …)` and `in_transaction(…, step="tick.run")` reach, at their two ends."""
    match node:
        case ast.Call(func=ast.Name(id="request"), args=[ast.Constant(value=str(step)), *_]):
            sending, sent = Failpoint(f"{step}.sending").name, Failpoint(f"{step}.sent").name
            return [Point(_begin(node), sending), Point(_end(node), sent)]
        case ast.Call(func=ast.Name(id=name), keywords=keywords) if name in TRANSACTIONS:
            steps = [ast.literal_eval(keyword.value) for keyword in keywords if keyword.arg == "step"]
            edges = [Failpoint(f"{step}.{edge}").name for step in steps for edge in EDGES]
            return [
                Point(at, edge) for at, edge in zip((_begin(node), _end(node), _end(node)), edges, strict=False)
            ]
        case _:
            return []


def _points_here(node: ast.AST) -> list[Point]:
    point = _point(node)
    return _edges(node) if point is None else [point]


def _points_of_chunks(node: ast.AST) -> list[str]:
    """What `work_in_chunks(…, step="retry")` reaches; not every kind of chunk makes something due."""
    if not (isinstance(node, ast.Call) and _called(node) == "work_in_chunks"):
        return []
    (step,) = (ast.literal_eval(keyword.value) for keyword in node.keywords if keyword.arg == "step")
    enqueued = [point.name for point in Failpoint if point == f"{step}.chunk.rung"]
    return [*enqueued, Failpoint(f"{step}.ringing").name]


def _step(node: ast.AST, transactions: frozenset[str]) -> Step | None:
    if isinstance(node, ast.With) and any(_is_begin(item.context_expr) for item in node.items):
        return Step("begin", _begin(node), _end(node), block=node)
    if not isinstance(node, ast.Call):
        return None
    name = _called(node)
    if name in transactions and isinstance(node.func, ast.Name):
        body = node.args[1] if len(node.args) > 1 else None
        return Step(name, _begin(node), _end(node), body=body, is_named=bool(_edges(node)))
    if name == REQUEST and isinstance(node.func, ast.Name):
        return Step(REQUEST if _edges(node) else UNNAMED, _begin(node), _end(node))
    if name in REQUESTS and isinstance(node.func, ast.Attribute):
        return Step(name, _begin(node), _end(node))
    return None


def _is_begin(expression: ast.expr) -> bool:
    return isinstance(expression, ast.Call) and _called(expression) == "begin"


def _called(call: ast.Call) -> str:
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


def _begin(node: ast.stmt | ast.expr) -> Position:
    return node.lineno, node.col_offset


def _end(node: ast.stmt | ast.expr) -> Position:
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return node.end_lineno, node.end_col_offset


def named_in_code(found: Findings) -> set[Failpoint]:
    """The members that some step reaches."""
    return {Failpoint[name] for name in found.points if name is not None and name in Failpoint.__members__}
