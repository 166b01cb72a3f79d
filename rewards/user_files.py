"""Reward files of users, ``path/file.py:function``, with the files that lie beside them.

**Guarantees**

* While a reward file is imported, and while its functions are called, its imports find what a script in its place
  would find: its folder is on the import path (and the folder above its package, where it lies in one), and a name that
  lies there is imported from there, whatever else has that name.
* Two files of one name, or two files with helpers of one name, are different modules.
* After an import or a call, the import path and the table of modules are as before.
* A file that has changed is imported again, with all that lies beside it.

**Assumes**

* Python's own modules and `redraft` are the same for all; a file beside a reward that has such a name is not found.
* Code of two places does not run at the same time: a call of one waits until that of the other has ended.

**Rejected alternatives**

* Put every folder on the import path for good: the first of two helpers of one name would serve both rewards.
* Import a file under its plain name: two files of one name could not be used in one recipe.
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
        path: Folders that go in front of the import path.
        package: Name under which modules of the folder are imported: ``reward_files_<hash>`` or a package below it.
        regular: Top-level names of the modules and packages in the folder.
        loose: Names of its folders without ``__init__.py``. A module of that name elsewhere goes before such a folder.
        modules: Modules imported from there under their plain names; kept here while no code of this place runs.
    """

    path: tuple[str, ...]
    package: str
    regular: frozenset[str]
    loose: frozenset[str]
    modules: dict[str, ModuleType] = field(default_factory=dict)

    def loaded(self) -> dict[str, ModuleType]:
        """Return the imported modules that have a name of this place, wherever they are from, by top-level name."""
        found = {top: sys.modules[top] for top in self.regular | self.loose if top in sys.modules}
        return {top: module for top, module in found.items() if top in self.regular or not _file_of(module)}

    def holds(self, module: ModuleType) -> bool:
        """Tell whether a module was imported from this place because its folder is on the import path anyway."""
        where = _file_of(module) or next(iter(getattr(module, "__path__", ())), "")
        return any(Path(where).is_relative_to(entry) for entry in self.path) if where else False


def _file_of(module: ModuleType) -> str | None:
    return getattr(module, "__file__", None)


_FRAME = re.compile(r'^  File "([^"\n]+)", line ([0-9]+), in (\S+)', re.MULTILINE)
_PLACES: dict[Path, _Place] = {}
_LOADED: dict[str, bytes] = {}  # the content of a module's file when it was imported
_LOCK = threading.RLock()  # for the table of modules, of which a process has one; a nested call may enter


def is_file(fn: str) -> bool:
    """Tell whether ``fn`` has the ``path/file.py:function`` form."""
    place = fn.rpartition(":")[0]
    return place.endswith(".py") or "/" in place


@contextlib.contextmanager
def beside(fn: str) -> Iterator[None]:
    """Run a block in which imports find what lies beside the file of ``fn``; without effect where it names no file.

    There is one place at a time: a block of another thread waits until this one ends.
    """
    if not is_file(fn):
        yield
        return
    with _at(_place(Path(fn.rpartition(":")[0]).expanduser().resolve())):
        yield


def load_file(path: Path) -> ModuleType:
    """Import a reward file and return its module; again, with all that lies beside it, when the file has changed.

    Raises:
        RewardError: There is no such file, or it does not import.
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
            reason = f"{type(error).__name__}: {error}{raised_at(traceback.format_exc())}"
            raise RewardError(f"reward file {str(path)!r} does not import: {reason}") from error


def raised_at(traceback_text: str) -> str:
    """Say where a user's code raised, as `` (file.py:7, in f)``; "" where no line of the traceback is the user's."""
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
    """Return the file's own name; one made from it where an import cannot have it."""
    if path.stem.isidentifier():
        return path.stem
    return f"{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}_{hashlib.sha1(path.name.encode()).hexdigest()[:8]}"


def _place(path: Path) -> _Place:
    """Return the place of a file. The first time, its root module is made and the names in its folder are read."""
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
    """Return the folder above the outermost package that a folder belongs to; the folder itself if it is in none."""
    while (folder / "__init__.py").is_file() and folder.name.isidentifier() and folder != folder.parent:
        folder = folder.parent
    return folder


def _names(folder: Path, loose: bool) -> Iterator[str]:
    """Yield the names that can be imported from a folder: modules and packages; if loose, folders of such."""
    for entry in folder.iterdir():
        with contextlib.suppress(OSError):  # an entry that may not be read
            if entry.is_dir() and entry.name.isidentifier():
                if (entry / "__init__.py").is_file() != loose:
                    yield entry.name
            elif entry.suffix == ".py" and not loose:
                yield entry.stem


@cache
def _kept() -> frozenset[str]:
    """Return the names that mean the same in every place: Python's own, and ours."""
    return frozenset({*sys.stdlib_module_names, "__main__", "redraft"})


@contextlib.contextmanager
def _at(place: _Place) -> Iterator[None]:
    with _LOCK:
        before = place.loaded()
        shared = {top for top, module in before.items() if place.holds(module)}
        hidden = _take_out(before.keys() - shared)
        sys.modules.update(place.modules)
        here = os.getcwd()  # most projects have their root there
        sys.path[:] = [*place.path, *sys.path, here]
        try:
            yield
        finally:
            # The reward's own code may have changed the path, so entries are looked up again.
            if here in sys.path:
                del sys.path[len(sys.path) - 1 - sys.path[::-1].index(here)]
            for entry in place.path:
                if entry in sys.path:
                    sys.path.remove(entry)
            place.modules = _take_out(place.loaded().keys() - shared)
            sys.modules.update(hidden)


def _take_out(tops: Set[str]) -> dict[str, ModuleType]:
    """Take the modules with these top-level names, and what lies in them, out of the table and return them."""
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
