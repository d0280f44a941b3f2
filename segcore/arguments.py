"""How commands read their arguments: by tyro, from a dataclass whose docstrings are the help."""

import ast
import dataclasses
import inspect
import itertools
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import tyro

Options = TypeVar("Options")


def read_arguments(
    kind: type[Options],
    arguments: Sequence[str] | None,
    prog: str,
    default: Options | None = None,
) -> Options:
    """The options that a command line gives; without ``arguments`` it is that of this process.

    ``default`` are options that hold unless given anew, so that flags can be taken back (--no-…).
    --help and mistakes end the process.
    """
    given = tyro.cli(
        _explained(kind, default),
        args=arguments,
        prog=prog,
        description=_description(kind),
        config=(tyro.conf.FlagCreatePairsOff,) if default is None else (),
    )
    return kind(**{field.name: getattr(given, field.name) for field in _fields(kind)})


def _explained(kind: type[Any], default: object | None) -> type[Any]:
    """A dataclass of the same fields, of which tyro tells what a person wants to read.

    By itself it begins a new line where the source has one, and says "(default: None)" and
    "{None}|STR" of an option whose docstring says what happens without it.
    """
    hints, said = get_type_hints(kind, include_extras=True), _docstrings(kind)
    explained: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for field in _fields(kind):
        hint = hints[field.name]
        about = tyro.conf.arg(
            help=said[field.name], help_behavior_hint=_show_default, metavar=_metavar(hint)
        )
        value = field.default if default is None else getattr(default, field.name)
        is_required = value is dataclasses.MISSING
        explained.append(
            (field.name, Annotated[hint, about], *([] if is_required else [value]))  # type: ignore[arg-type]
        )
    return dataclasses.make_dataclass(kind.__name__, explained)


def _fields(kind: type[Any]) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(kind)


def _docstrings(kind: type[Any]) -> dict[str, str]:
    """What stands below each field in the source, as one paragraph."""
    found: dict[str, str] = {}
    for base in filter(dataclasses.is_dataclass, reversed(kind.__mro__)):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        for pair in itertools.pairwise(definition.body):
            match pair:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[name] = _joined(text)
    return found


def _description(kind: type[Any]) -> str:
    """Its docstring, in lines that the terminal has room for.

    tyro breaks none, and joins those that begin with a letter.
    """
    width = shutil.get_terminal_size().columns
    paragraphs = (kind.__doc__ or "").split("\n\n")
    return "\n\n".join(
        textwrap.fill(_joined(text), width, subsequent_indent="  ") for text in paragraphs
    )


def _joined(text: str) -> str:
    return " ".join(text.split())


def _show_default(value: str) -> str:
    return "" if value in ("None", "False", "") else f"(default: {value})"


def _metavar(hint: Any) -> str | None:
    """Of what may be missing, what it is otherwise; None: as tyro has it."""
    match get_args(hint):
        case (kind, missing) if missing is type(None) and kind in (int, float, str, Path):
            return str(kind.__name__).upper()
    return None
