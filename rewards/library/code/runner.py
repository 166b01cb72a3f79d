"""What runs inside the sandbox, around the candidate's code. Read as text, never imported by the checker.

The candidate shares this process and can change anything here, so nothing that comes from here is believed: the checker
takes values and compares them itself. This code only has to serve an honest candidate faithfully.

The text must run on its own after that of `code.wire`, whose names it uses. It imports as little as it can, because
each import makes the start of every program slower.
"""

import builtins
import sys

from redraft.rewards.library.code.wire import WireError, dumps, loads


def prepare():
    """Give the candidate what an ordinary Python has and this one was started without."""
    builtins.exit = builtins.quit = sys.exit
    sys.set_int_max_str_digits(0)


def few_cores(sources):
    """Have pools start two processes or threads, not one for each core, because their number is limited."""
    if any("multiprocessing" in source or "concurrent" in source for source in sources):
        import os

        os.cpu_count = lambda: 2


def serve_calls(descriptor):
    """Load the candidate, then answer its calls until the checker goes away."""
    prepare()
    reader = open(descriptor, "rb", closefd=False)  # noqa: SIM115 - for life
    writer = open(descriptor, "wb", closefd=False)  # noqa: SIM115
    module = type(sys)("candidate")
    sys.modules["candidate"] = module  # dataclasses and typing look the module of a class up
    request = _receive(reader)
    while request is not None:
        reply = _answer(request, vars(module))
        writer.write(len(reply).to_bytes(8, "big") + reply)
        writer.flush()
        request = _receive(reader)


def run_program(descriptor):
    """Run the candidate as a program: it owns stdin, stdout and the exit code."""
    prepare()
    with open(descriptor, "rb") as reader:
        sources = loads(_receive(reader))
    module = type(sys)("__main__")
    sys.modules["__main__"] = module
    sys.argv[:] = ["main.py"]
    few_cores(sources)
    for source in sources:  # pyright: ignore - values of any type
        exec(compile(source, "<candidate>", "exec", dont_inherit=True), vars(module))


def run_calls(sources, calls):
    """Print the typed values of a list of calls, one on each line, where there is no channel to ask over."""
    import os

    prepare()
    line_out = open(os.dup(1), "wb")  # noqa: SIM115 - for life
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)  # what the candidate prints is not an answer
    module = type(sys)("candidate")
    sys.modules["candidate"] = module
    for request in [dumps(("load", sources)), *calls]:
        line_out.write(_answer(request, vars(module)) + b"\n")
        line_out.flush()


def _receive(reader):
    size = int.from_bytes(reader.read(8), "big")
    return reader.read(size) if size else None


def _answer(request, namespace):
    try:
        kind, *rest = loads(request)  # pyright: ignore - values of any type
        if kind == "load":
            few_cores(rest[0])
            for source in rest[0]:  # pyright: ignore - values of any type
                exec(compile(source, "<candidate>", "exec", dont_inherit=True), namespace)
            return dumps(("value", None, None))
        value, changed = _call(namespace, request, *rest)
        return dumps(("value", value, changed), lenient=True)
    except BaseException as error:  # noqa: BLE001 - the candidate may raise anything
        return dumps(("raised", _kind(error), _message(error)))


def _call(namespace, request, name, args, kwargs):
    """Return the value, and the arguments where the call returned None and changed one of them in place."""
    value = _function(namespace, name)(*args, **kwargs)
    if value is not None or not any(isinstance(arg, (list, dict, set)) for arg in args):
        return value, None
    return value, args if dumps(args, lenient=True) != dumps(loads(request)[2]) else None  # pyright: ignore - values of any type


def _function(namespace, name):
    """Find what a name means: a function of the candidate's own, else a method of its Solution, else any name."""
    function, solution = namespace.get(name), namespace.get("Solution")
    own = getattr(function, "__module__", None) == namespace["__name__"]
    if solution is not None and (function is None or (not own and hasattr(solution, name))):
        return getattr(solution(), name)
    if function is None:
        raise NameError(f"name {name!r} is not defined")
    return function


def _kind(error):
    """Return the name of an exception's class, or of the built-in class that it is derived from."""
    if type(error) is WireError:  # ours, so no test must take it for the ValueError that it expects
        return "WireError"
    names = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
    return type(error).__name__ if names[0] in ("Exception", "BaseException") else names[0]


def _message(error):
    try:
        return str(error)[:2000]
    except BaseException:  # noqa: BLE001 - its __str__ is the candidate's too
        return ""
