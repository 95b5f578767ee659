"""A calculator for untrusted text: arithmetic only, and bounded, so that `9**9**9` is refused at once."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable

Number = int | float

MAX_EXPRESSION = 200
"""Characters. Also bounds how deep an expression nests, and with it the recursion below."""
MAX_BITS = 1024
"""Whole numbers may have this many bits (308 digits): about where floats end, far below what costs time."""
MAX_DECIMALS = 15
"""`round(x, n)` takes n up to here: a float holds no more digits, and a huge n would cost memory."""

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
      | (?P<name>[a-z]+)
      | (?P<operator>\*\*|//|[-+*/%^(),])
    )\s*""",
    re.ASCII | re.VERBOSE,
)
# What people type and paste for times, divided, minus and dot.
_TYPED = str.maketrans({"\u00d7": "*", "\u00f7": "/", "\u2212": "-", "\u00b7": "*"})
_CONSTANTS: dict[str, float] = {"pi": math.pi, "e": math.e, "tau": math.tau}


class CalculationError(ValueError):
    """The expression is not arithmetic, or has no bounded real result. The message may be shown."""


def _power(base: Number, exponent: Number) -> Number:
    whole = isinstance(base, int) and isinstance(exponent, int) and exponent >= 0
    if whole and abs(base) > 1 and int(base).bit_length() * int(exponent) > 2 * MAX_BITS:
        raise CalculationError("the result of the power is too large; use smaller numbers")
    result: object = base**exponent
    if not isinstance(result, int | float):
        raise CalculationError("the power has no real result; use a base that is not negative")
    return result


def _round(value: Number, decimals: Number = 0) -> Number:
    if not isinstance(decimals, int) or not 0 <= decimals <= MAX_DECIMALS:
        raise CalculationError(f"round takes 0 to {MAX_DECIMALS} decimals")
    return round(value, decimals) if decimals else round(value)


_BINARY: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
_UNARY: dict[type[ast.unaryop], Callable[[Number], Number]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_FUNCTIONS: dict[str, Callable[..., Number]] = {
    "abs": abs,
    "ceil": math.ceil,
    "cos": math.cos,
    "exp": math.exp,
    "floor": math.floor,
    "log": math.log,
    "max": max,
    "min": min,
    "round": _round,
    "sin": math.sin,
    "sqrt": math.sqrt,
    "tan": math.tan,
}


def calculate(expression: str) -> str:
    """Return the value of an arithmetic expression as text: `calculate("2 + 3 * 4")` is `"14"`.

    Knows `+ - * / // %`, `**` or `^`, parentheses, `pi e tau`, and `abs ceil cos exp floor log max min round
    sin sqrt tan`. Whole numbers are exact; others are shown with 12 digits.

    Raises:
        CalculationError: when the text is no such expression, or its value is too large or not a real number.
    """
    try:
        value = _value(ast.parse(_clean(expression), mode="eval").body)
    except CalculationError:
        raise
    except SyntaxError:
        raise CalculationError("expected an arithmetic expression such as 2 * (3 + 4)") from None
    except ZeroDivisionError:
        raise CalculationError("division by zero has no result") from None
    except OverflowError:
        raise CalculationError("the result is too large; use smaller numbers") from None
    except (TypeError, ValueError):
        raise CalculationError("a function was given numbers that it cannot take") from None
    return str(value) if isinstance(value, int) else f"{value:.12g}"


def _clean(expression: str) -> str:
    """Return the expression rebuilt from known tokens, so that the parser only ever sees arithmetic."""
    text = expression.translate(_TYPED).lower()
    if len(text) > MAX_EXPRESSION:
        raise CalculationError(f"expected at most {MAX_EXPRESSION} characters, got {len(text)}; shorten it")
    tokens = []
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise CalculationError(f"{text[place]!r} is not arithmetic; use numbers, + - * / and parentheses")
        name = match["name"]
        if name and name not in _FUNCTIONS and name not in _CONSTANTS:
            raise CalculationError(f"{name!r} is not known; known are {', '.join([*_FUNCTIONS, *_CONSTANTS])}")
        tokens.append("**" if match["operator"] == "^" else match.group().strip())
        place = match.end()
    return " ".join(tokens)


def _value(node: ast.expr) -> Number:
    """Return the value of one node, every intermediate result within bounds."""
    match node:
        case ast.Constant(value=int() | float() as number):
            return _bounded(number)
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _UNARY:
            return _UNARY[type(sign)](_value(operand))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _BINARY:
            return _bounded(_BINARY[type(sign)](_value(left), _value(right)))
        case ast.Call(func=ast.Name(id=name), args=args) if name in _FUNCTIONS:
            return _bounded(_FUNCTIONS[name](*[_value(arg) for arg in args]))
    raise CalculationError("expected an arithmetic expression such as 2 * (3 + 4)")


def _bounded(value: Number) -> Number:
    fits = value.bit_length() <= MAX_BITS if isinstance(value, int) else math.isfinite(value)
    if not fits:
        raise CalculationError("the result is too large; use smaller numbers")
    return value
