"""Exact match, and a restricted evaluator for generated functions.

The evaluator reads one ``def`` of one argument and one ``return`` of integer arithmetic.
It walks the syntax tree itself: nothing of the text is ever handed to ``eval``.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Sequence

from adaptrix.samples.tasks import Item

MAX_SOURCE = 400
MAX_VALUE = 10**12

_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


class CodeRefused(ValueError):
    """Generated text that is not a function of the allowed kind."""


def compile_function(source: str) -> Callable[[int], int]:
    """Turn ``def f ( x ) : return …`` into a function.

    Allowed: one argument, integers, ``+ - * // %``, unary minus and parentheses.

    Raises:
        CodeRefused: anything else, or results beyond ``MAX_VALUE``.
    """
    if len(source) > MAX_SOURCE:
        raise CodeRefused("too long")
    try:
        tree = ast.parse(source.strip())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise CodeRefused("not Python") from error
    match tree.body:
        case [ast.FunctionDef(args=ast.arguments(args=[argument]) as arguments) as function]:
            pass
        case _:
            raise CodeRefused("expected one function of one argument")
    if arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.posonlyargs:
        raise CodeRefused("expected one plain argument")
    if arguments.defaults or argument.annotation or function.decorator_list or function.returns:
        raise CodeRefused("no defaults, annotations or decorators")
    match function.body:
        case [ast.Return(value=ast.expr() as expression)]:
            name = argument.arg
            return lambda value: _evaluate(expression, name, value)
        case _:
            raise CodeRefused("expected one return")


def _evaluate(node: ast.expr, name: str, value: int) -> int:
    match node:
        case ast.Constant(value=int() as number) if not isinstance(number, bool):
            result = number
        case ast.Name(id=found) if found == name:
            result = value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            result = -_evaluate(operand, name, value)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            a, b = _evaluate(left, name, value), _evaluate(right, name, value)
            if b == 0 and isinstance(op, ast.FloorDiv | ast.Mod):
                raise CodeRefused("division by zero")
            result = _OPERATORS[type(op)](a, b)
        case _:
            raise CodeRefused(f"{type(node).__name__} is not allowed")
    if abs(result) > MAX_VALUE:
        raise CodeRefused("number too large")
    return result


def exact_match(completion: str, item: Item) -> bool:
    """Whether a completion solves an item.

    The first line of the completion counts. For ``code`` it must be a function that gives
    the expected results; for the rest it must equal the answer, blanks at the ends aside.
    """
    lines = completion.strip().splitlines()
    line = lines[0].strip() if lines else ""
    if not item.checks:
        return line == item.answer
    try:
        function = compile_function(line)
        return all(function(value) == expected for value, expected in item.checks)
    except CodeRefused:
        return False


def score(completions: Sequence[str], items: Sequence[Item]) -> float:
    """Share of items that are solved, 0 to 1.

    Raises:
        ValueError: the two lengths differ.
    """
    pairs = zip(completions, items, strict=True)
    return sum(exact_match(text, item) for text, item in pairs) / max(1, len(items))
