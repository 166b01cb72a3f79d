"""Reward files of users, with the files that lie beside them.

A reward file is imported under a name of its own, so that two of one name, or two with helpers of one name, are
different modules. While it is imported, and while its functions are called, it sees what a script in its place would:
its folder is on the import path (and the folder above its package, where it lies in one), and modules of the names that
lie there are the ones from there.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType

from redraft.rewards.result import RewardError


@dataclass(eq=False)
class _Place:
    """A folder of reward files.

    Attributes:
        path: What goes in front of the import path.
        package: Name under which modules of the folder are imported: ``reward_files_<hash>`` or a package below it.
        regular: Top-level names that modules and packages of the folder have.
        loose: Names of folders without ``__init__.py``, which any real module of that name goes before.
        modules: What was imported from there under its plain name, kept while nobody of this place is at work.
    """

    path: tuple[str, ...]
    package: str
    regular: frozenset[str]
    loose: frozenset[str]
    modules: dict[str, ModuleType] = field(default_factory=dict)

    def loaded(self) -> dict[str, ModuleType]:
        """The imported modules that have a name of this place, wherever they are from; by top-level name."""
        found = {top: sys.modules[top] for top in self.regular | self.loose if top in sys.modules}
        return {top: module for top, module in found.items() if top in self.regular or not _file_of(module)}

    def holds(self, module: ModuleType) -> bool:
        """Whether a module is from this place already, because its folder is on the import path anyway."""
        where = _file_of(module) or next(iter(getattr(module, "__path__", ())), "")
        return any(Path(where).is_relative_to(entry) for entry in self.path) if where else False


def _file_of(module: ModuleType) -> str | None:
    return getattr(module, "__file__", None)


_FRAME = re.compile(r'^  File "([^"\n]+)", line ([0-9]+), in (\S+)', re.MULTILINE)
_PLACES: dict[Path, _Place] = {}
_LOADED: dict[str, bytes] = {}  # what the file of a module held when it was imported
_LOCK = threading.RLock()  # the table of modules is one for the process; a nested call is let in


def is_file(fn: str) -> bool:
    """Whether ``fn`` has the ``path/file.py:function`` form."""
    place = fn.rpartition(":")[0]
    return place.endswith(".py") or "/" in place


@contextlib.contextmanager
def beside(fn: str) -> Iterator[None]:
    """A block in which imports find what lies beside the file of ``fn``; nothing special where it names no file.

    One place at a time: a block of another thread waits until this one ends.
    """
    if not is_file(fn):
        yield
        return
    with _at(_place(Path(fn.rpartition(":")[0]).expanduser().resolve())):
        yield


def load_file(path: Path) -> ModuleType:
    """The module of a reward file; imported again, with all beside it, when the file has changed.

    Raises:
        RewardError: No such file, or it does not import.
    """
    path = path.expanduser().resolve()
    if not path.is_file():
        raise RewardError(f"no file {str(path)!r} for a reward; the form is 'path/file.py:function'")
    with _LOCK:
        content, place = path.read_bytes(), _place(path)
        name = f"{place.package}.{_module_name(path)}"
        if name in sys.modules and _LOADED.get(name, content) == content:
            return sys.modules[name]
        if name in sys.modules:
            _forget(place)
        importlib.invalidate_caches()  # files written a moment ago
        try:
            with _at(place):
                return _import(name, place, path, content)
        except (Exception, SystemExit) as error:
            sys.modules.pop(name, None)
            told = f"{type(error).__name__}: {error}{raised_at(traceback.format_exc())}"
            raise RewardError(f"reward file {str(path)!r} does not import: {told}") from error


def raised_at(traceback_text: str) -> str:
    """Where a user's code raised, as `` (file.py:7, in f)``: the innermost line that is no library's; "" for none."""
    libraries = (*map(os.path.realpath, {sys.prefix, sys.base_prefix}), "<", str(Path(__file__).parent))
    frames = [match for match in _FRAME.finditer(traceback_text) if not match[1].startswith(libraries)]
    return f" ({frames[-1][1]}:{frames[-1][2]}, in {frames[-1][3]})" if frames else ""


def _import(name: str, place: _Place, path: Path, content: bytes) -> ModuleType:
    """Import a file as a module of its place's package, so that relative imports work too."""
    importlib.import_module(place.package)
    if name in sys.modules:  # its package imports it
        _LOADED[name] = content
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("it is not a Python file; the form is 'path/file.py:function'")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before execution: dataclasses and pickle look their module up
    _LOADED[name] = content
    spec.loader.exec_module(module)
    return module


def _module_name(path: Path) -> str:
    """The file's own name, or one that an import can have."""
    if path.stem.isidentifier():
        return path.stem
    return f"{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}_{hashlib.sha1(path.name.encode()).hexdigest()[:8]}"


def _place(path: Path) -> _Place:
    """The place of a file; its root module is made, and what lies in the folder is read, the first time."""
    folder = path.parent
    with _LOCK:
        if folder not in _PLACES:
            root = _root(folder)
            anchor = f"reward_files_{hashlib.sha1(str(root).encode()).hexdigest()[:12]}"
            if anchor not in sys.modules:
                sys.modules[anchor] = ModuleType(anchor, f"Modules of reward files in {root}.")
                sys.modules[anchor].__path__ = [str(root)]
            paths = tuple(dict.fromkeys((str(folder), str(root))))
            regular = {name for place in paths for name in _names(Path(place), loose=False)}
            loose = {name for place in paths for name in _names(Path(place), loose=True)} - regular
            package = ".".join((anchor, *folder.relative_to(root).parts))
            _PLACES[folder] = _Place(paths, package, frozenset(regular - _kept()), frozenset(loose - _kept()))
        return _PLACES[folder]


def _root(folder: Path) -> Path:
    """The folder above the outermost package that a folder belongs to; itself, where it is no package."""
    while (folder / "__init__.py").is_file() and folder.name.isidentifier() and folder != folder.parent:
        folder = folder.parent
    return folder


def _names(folder: Path, loose: bool) -> Iterator[str]:
    """Names that can be imported from a folder: modules and packages, or folders that only hold some."""
    for entry in folder.iterdir():
        with contextlib.suppress(OSError):  # an entry that may not be read
            if entry.is_dir() and entry.name.isidentifier():
                if (entry / "__init__.py").is_file() != loose:
                    yield entry.name
            elif entry.suffix == ".py" and not loose:
                yield entry.stem


@cache
def _kept() -> frozenset[str]:
    """Names that stay what they are: Python's own once they are imported, and ours, which reward files import."""
    return frozenset({*sys.stdlib_module_names, "__main__", "redraft"})


@contextlib.contextmanager
def _at(place: _Place) -> Iterator[None]:
    with _LOCK:
        before = place.loaded()
        shared = {top for top, module in before.items() if place.holds(module)}
        hidden = _take_out(before.keys() - shared)
        sys.modules.update(place.modules)
        here = os.getcwd()  # where a project has its root, as a rule
        sys.path[:] = [*place.path, *sys.path, here]
        try:
            yield
        finally:
            sys.path.reverse()
            with contextlib.suppress(ValueError):
                sys.path.remove(here)
            sys.path.reverse()
            for entry in place.path:
                with contextlib.suppress(ValueError):  # the reward's own code may have changed the path
                    sys.path.remove(entry)
            place.modules = _take_out(place.loaded().keys() - shared)
            sys.modules.update(hidden)


def _take_out(tops: Set[str]) -> dict[str, ModuleType]:
    """Take modules out of the table: those with these top-level names, and what lies in them."""
    taken = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in tops} if tops else {}
    for name in taken:
        del sys.modules[name]
    return taken


def _forget(place: _Place) -> None:
    """Drop everything that was imported of a place, so that the next import reads the files again."""
    for folder, other in list(_PLACES.items()):
        if other.package.partition(".")[0] == place.package.partition(".")[0]:
            del _PLACES[folder]
            other.modules.clear()
    anchor = place.package.partition(".")[0]
    for name in [name for name in sys.modules if name.startswith(f"{anchor}.")]:
        del sys.modules[name]
        _LOADED.pop(name, None)
