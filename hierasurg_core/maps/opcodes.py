"""A reader of pickles that runs nothing: the few opcodes of plain data, carried out here one by one.

Owns how a pickle becomes values. `pickletools` splits the file into opcodes; this module does what each of
them says with its own stack. It refuses every other opcode, and every callable but those that the caller
hands in. So a file can neither run code nor make Python's own unpickler take memory (a memo of 2^31 places,
a frame of terabytes): the work is that of a bounded number of opcodes, and the memory that of their
arguments, which the file itself has to hold.
"""

import pickletools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from hierasurg_core.errors import shown

MAX_OPCODES = 1_000_000  # the public code's pickle of a clip of 254 objects has 130,000
MAX_ITEM_BYTES = 1 << 26  # of one text or bytes: a boolean mask of 8192 x 8192

_VALUES = frozenset(
    ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE")
) | {"BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_NAMED = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_GETS = frozenset(("GET", "BINGET", "LONG_BINGET"))


class RefusedError(ValueError):
    """What a plain pickle does not hold; the caller adds the file's name."""


class UnknownCallableError(Exception):
    """The pickle asks for a callable that is not among the known ones; it was not run."""


class Known:
    """A callable that a file may name: it can be called and nothing else."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., object]) -> None:
        """Keeps what stands for the callable."""
        self._call = call

    def __call__(self, *args: object) -> object:
        """Calls it."""
        return self._call(*args)


class Stateful(ABC):
    """Something made by a `Known`, whose state the file sets in a second step."""

    __slots__ = ()

    @abstractmethod
    def set_state(self, state: object) -> None:
        """Takes the state, or raises `RefusedError`."""


def load_plain(file: BinaryIO, known: Mapping[tuple[str, str], Known]) -> object:
    """Returns the value of a pickle of numbers, text, bytes, tuples, lists, dictionaries and known calls.

    Args:
        file: Open at the pickle's start.
        known: What stands for each callable, by module and name.

    Raises:
        UnknownCallableError: The pickle names another callable; the message is "module.name".
        RefusedError: It has another opcode, more than a million of them, a text of more than 64 MB, a key
            that is no whole number, or a call or state of what takes none.
        ValueError, LookupError, TypeError: It is damaged.
    """
    machine = _Machine(known)
    for count, (opcode, arg, _) in enumerate(pickletools.genops(_Bounded(file))):  # pyright: ignore[reportArgumentType] - read and readline are all it needs
        if count >= MAX_OPCODES:
            raise RefusedError(f"it has more than {MAX_OPCODES:,} steps")
        machine.step(opcode.name, arg)
    return machine.pop()


class _Bounded:
    """A file that gives no more at a time than a map's largest item."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, count: int) -> bytes:
        if count > MAX_ITEM_BYTES:
            raise RefusedError(f"it holds an item of {count:,} bytes")
        return self._file.read(count)

    def readline(self) -> bytes:
        line = self._file.readline(MAX_ITEM_BYTES + 1)
        if len(line) > MAX_ITEM_BYTES:
            raise RefusedError(f"it holds an item of more than {MAX_ITEM_BYTES:,} bytes")
        return line


class _Machine:
    """The stack, its marks and the memo."""

    def __init__(self, known: Mapping[tuple[str, str], Known]) -> None:
        self._known = known
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, arg: Any) -> None:
        """Does what one opcode says."""
        stack = self._stack
        if name in _VALUES:
            _expect_latin(arg)
            stack.append(arg)
        elif name in _GETS:
            stack.append(self._memo[arg])
        elif name in _PUTS:
            self._memo[arg] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name in _TUPLES:
            stack.append(self._take(_TUPLES[name]))
        elif name == "TUPLE":
            stack.append(self._since_mark())
        elif name == "REDUCE":
            self._call()
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            module, function = self._take(2) if name == "STACK_GLOBAL" else arg.split(" ", 1)
            stack.append(self._find(module, function))
        elif name == "BUILD":
            self._build()
        elif name in _NAMED:
            stack.append(_NAMED[name])
        elif name not in ("PROTO", "FRAME", "STOP"):
            self._collect(name)

    def pop(self) -> Any:
        """Takes the uppermost value; a mark is a border."""
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise RefusedError("it takes more values than it holds")
        return self._stack.pop()

    def _take(self, count: int) -> tuple[Any, ...]:
        taken = [self.pop() for _ in range(count)]
        return tuple(reversed(taken))

    def _since_mark(self) -> tuple[Any, ...]:
        if not self._marks:
            raise RefusedError("it takes more values than it holds")
        begin = self._marks.pop()
        taken = tuple(self._stack[begin:])
        del self._stack[begin:]
        return taken

    def _collect(self, name: str) -> None:
        """Makes dictionaries and lists, and fills them."""
        if name in ("EMPTY_DICT", "EMPTY_LIST"):
            self._stack.append({} if name == "EMPTY_DICT" else [])
        elif name in ("DICT", "LIST"):
            items = self._since_mark()
            self._stack.append([] if name == "LIST" else {})
            self._fill(items)
        elif name in ("SETITEM", "SETITEMS", "APPEND", "APPENDS"):
            single = {"SETITEM": 2, "APPEND": 1}.get(name)
            items = self._since_mark() if single is None else self._take(single)
            self._fill(items)
        else:
            raise RefusedError(f"it has the step {name}, which no map file needs")

    def _fill(self, items: tuple[Any, ...]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
            return
        if not isinstance(target, dict) or len(items) % 2:
            raise RefusedError("it fills what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Anything else could take as long to hash as it likes.
            if type(key) is not int:
                raise RefusedError("a frame or id is no number")
            target[key] = value

    def _find(self, module: object, function: object) -> Known:
        found = self._known.get((module, function)) if isinstance(module, str) else None  # pyright: ignore[reportCallIssue, reportArgumentType]
        if found is None:
            raise UnknownCallableError(f"{_name(module)}.{_name(function)}")
        return found

    def _call(self) -> None:
        function, args = self._take(2)
        if not isinstance(function, Known) or not isinstance(args, tuple):
            raise RefusedError("it calls what is no function")
        self._stack.append(function(*args))

    def _build(self) -> None:
        target, state = self._take(2)
        if not isinstance(target, Stateful):
            what = "a function" if isinstance(target, Known) else f"a {type(target).__name__}"
            raise RefusedError(f"it sets state on {what}")
        target.set_state(state)
        self._stack.append(target)


def _expect_latin(value: object) -> None:
    """Text stands for names and, in old protocols, for bytes; other letters take four times their file."""
    if isinstance(value, str) and not value.isascii() and max(value) > "\xff":
        raise RefusedError("it holds text that stands for no bytes")


def _name(part: object) -> str:
    return part if isinstance(part, str) and len(part) <= 100 and part.isprintable() else shown(part)
