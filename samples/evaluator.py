"""A restricted evaluator for generated functions.

It reads one ``def`` of one argument and one ``return`` of integer arithmetic.
It walks the syntax tree itself: nothing of the text is ever handed to ``eval``.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable

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
